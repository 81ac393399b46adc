//! The lab through the public API, as other crates' kernel tests use it.
#![allow(clippy::unwrap_used)] // a test fails by it, here in its helpers too

use ctflow_lab::topology::{Firewall, SERVER};
use ctflow_lab::traffic::tcp_exchange;
use ctflow_lab::{Lab, sysctl};

#[test]
fn an_integration_test_has_a_private_network() {
    ctflow_lab::isolated!({
        let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        firewall.client.run(|| tcp_exchange((SERVER, 80).into(), b"hello")).unwrap();
        assert!(sysctl::flow_count().unwrap() >= 1);
    });
}
