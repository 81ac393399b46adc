//! Tests of all formats together.

pub(super) mod conntrack_lines;
mod well_formed;
