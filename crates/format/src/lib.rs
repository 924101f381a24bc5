//! Files to tensors and metadata: GGUF, safetensors, Hugging Face folders.
