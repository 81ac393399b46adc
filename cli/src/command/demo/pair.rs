//! The pipeline on both firewalls: the first captures and replicates, the second injects every flow into its kernel as
//! it arrives (hot mode).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ctflow_engine::engine::{Engine, Settings, StartError};
use ctflow_engine::limits::FLOWS_PER_SHARD;
use ctflow_engine::metrics::Counts;
use ctflow_engine::replication::ReplicationSettings;
use ctflow_engine::replication::filter::ReplicationFilter;
use ctflow_engine::replication::link::{LinkSettings, Transport};
use ctflow_engine::takeover;
use ctflow_lab::gateways::{GatewayId, Gateways, SYNC_ADDRESSES};
use ctflow_replicate::{Config, Epoch, Key, Role};

use super::WORKERS;
use super::screen::print_text;
use crate::config::secret;
use crate::failure::Failure;

/// The UDP port of both nodes' links.
const PORT: u16 = 3780;
/// The nodes' names, by [`GatewayId::index`].
const NAMES: [&str; 2] = ["fw1", "fw2"];

/// Two firewalls with an engine each: `one` captures and replicates, `other` is its backup.
pub(super) struct Pair<'g> {
    gateways: &'g Gateways,
    one: Engine,
    other: Arc<Engine>,
}

impl<'g> Pair<'g> {
    /// Starts both engines, each in its firewall's network.
    ///
    /// # Errors
    /// There is no random key, or an engine does not start.
    pub(super) fn start(gateways: &'g Gateways) -> Result<Self, Failure> {
        let key = secret::Key::random().map_err(|error| Failure::Demo(format!("there is no random key: {error}")))?;
        let start = |which: GatewayId, workers| -> Result<Engine, StartError> {
            let settings = settings(which, workers, &key);
            gateways.firewall(which).run(move || Engine::start(&settings))
        };
        Ok(Self { gateways, one: start(GatewayId::First, WORKERS)?, other: Arc::new(start(GatewayId::Second, 1)?) })
    }

    /// Returns the first firewall's counts.
    pub(super) fn captured(&self) -> Counts {
        self.one.totals()
    }

    /// Returns how many of the first firewall's flows the second one holds.
    pub(super) fn replicated(&self) -> u64 {
        let status = self.other.replication().and_then(|replication| replication.status().ok());
        status.map_or(0, |status| status.replicas.iter().map(|replica| replica.flows).sum())
    }

    /// Cuts the first firewall off and stops its engine; after `detection` the second one gets the addresses and
    /// becomes primary. Prints each step with the time since the cut. Returns the second engine, which runs until it is
    /// dropped.
    ///
    /// # Errors
    /// The takeover fails or is not complete, or standard output cannot be written.
    pub(super) fn fail_over(self, detection: Duration) -> Result<Arc<Engine>, Failure> {
        let flows = self.replicated();
        let cut_at = Instant::now();
        self.gateways.cut_off(GatewayId::First)?;
        // After the cut, so that the second firewall does not receive that the first one stops.
        drop(self.one);
        print_step(Duration::ZERO, "fw1 dies: network cut off, ctflow stopped")?;
        thread::sleep(detection.saturating_sub(cut_at.elapsed()));
        let noticed = cut_at.elapsed();
        print_step(noticed, "fw2 notices, as soon as VRRP would")?;
        self.gateways.activate(GatewayId::Second)?;
        let other = self.other.clone();
        let changed = self.gateways.firewall(GatewayId::Second).run(move || other.set_role(Role::Primary));
        match changed.map(|changed| changed.missing) {
            Ok(missing) if missing.is_empty() => {
                let now = cut_at.elapsed();
                let took_ms = now.saturating_sub(noticed).as_millis();
                print_step(now, &format!("fw2 took over in {took_ms} ms: addresses and {flows} flows"))?;
                Ok(self.other)
            }
            Ok(missing) => Err(Failure::Demo(format!("the takeover is not complete: {}", missing.join("; ")))),
            Err(busy) => Err(Failure::Demo(busy.to_string())),
        }
    }
}

/// Prints a step of the takeover with the time since its start.
fn print_step(time: Duration, text: &str) -> io::Result<()> {
    print_text(&format!("{:>6} ms  ", time.as_millis()), text)
}

/// Returns the settings of one firewall. The epoch is constant because these two nodes run only once.
fn settings(which: GatewayId, workers: u32, key: &secret::Key) -> Settings {
    let index = which.index();
    let at = |index: usize| SocketAddr::new(SYNC_ADDRESSES[index], PORT);
    let config = Config::new(NAMES[index], 1, Epoch::new(1, 0));
    Settings {
        workers,
        pin: false,
        replication: Some(ReplicationSettings {
            node: Config { key: Some(Key::new(*key.bytes())), ..config },
            links: vec![LinkSettings {
                transport: Transport::Udp,
                local: at(index),
                peers: vec![at(1 - index)],
                interface: None,
            }],
            filter: ReplicationFilter::default(),
            replica_flows_max: FLOWS_PER_SHARD,
            takeover: takeover::Settings { hot: true, ..takeover::Settings::default() },
            isolation: None,
            role_file: None,
        }),
        ..Settings::default()
    }
}
