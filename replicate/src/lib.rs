//! The agreement between nodes.
#![forbid(unsafe_code)]
