//! Test support: golden files, tolerances.
