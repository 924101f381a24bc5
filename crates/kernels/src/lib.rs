//! CPU compute, one file per op family, and the thread pool.
