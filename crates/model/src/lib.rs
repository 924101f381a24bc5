//! What a model is: architectures as data.
