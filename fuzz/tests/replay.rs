//! The ordinary test run replays every input that a fuzzer kept, and every one that has crashed a target.

use std::fs;
use std::path::Path;

use ctflow_fuzz::TARGETS;

#[test]
fn every_kept_input_passes_its_target() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut count = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            target(&fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{} is empty", folder.display());
    }
}

/// The inputs in a corpus pass as they are. This test cuts each at every length and damages it at every byte.
#[test]
fn no_damage_to_a_kept_input_breaks_its_target() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        for entry in fs::read_dir(&folder).unwrap() {
            let mut bytes = fs::read(entry.unwrap().path()).unwrap();
            bytes.truncate(600);
            for at in 0..bytes.len() {
                target(&bytes[..at]);
                bytes[at] ^= 0xff;
                target(&bytes);
                bytes[at] ^= 0xff;
            }
        }
    }
}
