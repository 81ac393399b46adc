//! A table as a file of commands: the format that `-L -o save` prints and `-R` reads.
//!
//! The file is in memory and has no name. Programs open it through this process's descriptor in `/proc`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use crate::failure::Failure;
use crate::process::{Exited, Process, RUN_TIMEOUT, file_in_memory};
use crate::program::Program;

/// The destination port of four flows of five.
pub(crate) const COMMON_PORT: u16 = 443;
/// The destination port of every fifth flow.
const OTHER_PORT: u16 = 80;
/// One flow of this many has the other port.
const PORTS_TURN: u32 = 5;
/// The address of the first client. Each flow has a client of its own.
const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// A file of established TCP flows, a line each.
#[derive(Debug)]
pub(crate) struct SavedTable {
    file: File,
}

impl SavedTable {
    /// Writes a file of `flows` flows.
    ///
    /// # Errors
    /// When there is not enough memory for the file.
    pub(crate) fn with_flows(flows: u32) -> Result<Self, Failure> {
        let mut text = String::new();
        (0..flows).for_each(|index| line(&mut text, index));
        let mut file = file_in_memory()?;
        file.write_all(text.as_bytes()).map_err(Failure::system("write a file of commands"))?;
        Ok(Self { file })
    }

    /// Loads the file into the kernel with `program -R`, and returns the cost.
    ///
    /// # Errors
    /// When the program fails.
    pub(crate) fn load(&self, program: &Program) -> Result<Exited, Failure> {
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd());
        Process::start(program, &["-R", &path])?.run_to_end(RUN_TIMEOUT)
    }
}

/// The number of flows with the common port in a file of `flows` flows.
pub(crate) fn common_count(flows: u32) -> u32 {
    flows - flows.div_ceil(PORTS_TURN)
}

/// Appends the command that creates flow number `index`.
fn line(text: &mut String, index: u32) {
    let (client, server) = (Ipv4Addr::from_bits(FIRST_CLIENT.to_bits() + index), "192.0.2.1");
    let port = if index.is_multiple_of(PORTS_TURN) { OTHER_PORT } else { COMMON_PORT };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "-A -t 3600 -u SEEN_REPLY,ASSURED -s {client} -d {server} -r {server} -q {client} -p tcp --sport 40000 \
         --dport {port} --reply-port-src {port} --reply-port-dst 40000 --state ESTABLISHED"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_of_five_flows_go_to_the_common_port_and_no_two_are_alike() {
        for flows in [1, 4, 5, 6, 1_000] {
            let mut text = String::new();
            (0..flows).for_each(|index| line(&mut text, index));
            let lines: std::collections::HashSet<_> = text.lines().collect();
            assert_eq!(lines.len(), flows as usize);
            let common_lines = lines.iter().filter(|line| line.contains(" --dport 443 ")).count();
            assert_eq!(common_lines, common_count(flows) as usize);
        }
    }
}
