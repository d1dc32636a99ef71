//! The benches are in `paths.rs`.
