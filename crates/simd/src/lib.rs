//! SIMD made safe: instruction-set tokens, detection, dispatch.
