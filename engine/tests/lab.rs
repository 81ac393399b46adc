//! The lab through the public API, as other crates' kernel tests use it.
#![allow(clippy::unwrap_used)] // a test fails by it, here in its helpers too

use std::time::Duration;

use ctflow_engine::lab::topology::{Firewall, SERVER};
use ctflow_engine::lab::traffic::{Flood, tcp_exchange};
use ctflow_engine::lab::{Lab, sysctl};

#[test]
fn an_integration_test_gets_a_network_of_its_own() {
    ctflow_engine::isolated!({
        let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        firewall.client.run(|| tcp_exchange((SERVER, 80).into(), b"hello")).unwrap();
        assert!(sysctl::flow_count().unwrap() >= 1);
    });
}

/// Question: how fast does the lab make flows, and are none lost? By hand, on a quiet machine:
/// `cargo test --release -p ctflow-engine --test lab -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn flood_speed() {
    ctflow_engine::isolated!({
        let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        measure("from the client, forwarded", |flows| firewall.client.run(move || flood(flows)));
        measure("from the firewall itself", flood);
    });
}

fn measure(how: &str, flood: impl FnOnce(u32) -> Duration) {
    const FLOWS: u32 = 120_000; // twice that is still below the usual limit of 262,144 flows
    let before = sysctl::flow_count().unwrap();
    let elapsed = flood(FLOWS);
    println!("{how}: {FLOWS} flows in {elapsed:.2?}, {:.0} a second", f64::from(FLOWS) / elapsed.as_secs_f64());
    assert_eq!(sysctl::flow_count().unwrap() - before, u64::from(FLOWS), "flows lost");
}

fn flood(flows: u32) -> Duration {
    Flood::open().and_then(|mut flood| flood.send(flows)).unwrap()
}
