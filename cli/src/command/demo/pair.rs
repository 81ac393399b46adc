//! The pipeline on both firewalls: the first captures and tells, the second has the flows in its kernel as they come.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ctflow_engine::engine::{Engine, Settings, StartError};
use ctflow_engine::filter::ReplicationFilter;
use ctflow_engine::lab::gateways::{GatewayId, Gateways, SYNC_ADDRESSES};
use ctflow_engine::limits::FLOWS_PER_SHARD;
use ctflow_engine::link::{LinkSettings, Transport};
use ctflow_engine::metrics::Counts;
use ctflow_engine::replication::ReplicationSettings;
use ctflow_engine::takeover;
use ctflow_replicate::{Config, Epoch, Key, Role};

use super::WORKERS;
use crate::config::secret;
use crate::failure::Failure;

const PORT: u16 = 3780;

pub(super) struct Pair<'g> {
    gateways: &'g Gateways,
    one: Engine,
    other: Arc<Engine>,
}

impl<'g> Pair<'g> {
    /// Starts both.
    pub(super) fn start(gateways: &'g Gateways) -> Result<Self, Failure> {
        let key = secret::Key::random().map_err(|error| Failure::Demo(format!("there is no random key: {error}")))?;
        let start = |which: GatewayId, workers| -> Result<Engine, StartError> {
            let settings = settings(which, workers, &key);
            gateways.firewall(which).run(move || Engine::start(&settings))
        };
        Ok(Self { gateways, one: start(GatewayId::First, WORKERS)?, other: Arc::new(start(GatewayId::Second, 1)?) })
    }

    /// What the first firewall has captured.
    pub(super) fn captured(&self) -> Counts {
        self.one.totals()
    }

    /// How many of its flows the second one knows.
    pub(super) fn replicated(&self) -> u64 {
        let status = self.other.replication().and_then(|replication| replication.status().ok());
        status.map_or(0, |status| status.replicas.iter().map(|replica| replica.flows).sum())
    }

    /// Cuts off the first firewall and ends its pipeline; the second notices after `detection`, and takes the addresses and
    /// the role. It runs on until what is returned is dropped.
    pub(super) fn fail_over(self, detection: Duration) -> Result<Arc<Engine>, Failure> {
        let since = Instant::now();
        self.gateways.cut_off(GatewayId::First)?;
        drop(self.one); // what it says now nobody hears
        thread::sleep(detection.saturating_sub(since.elapsed()));
        self.gateways.activate(GatewayId::Second)?;
        let other = self.other.clone();
        let changed = self.gateways.firewall(GatewayId::Second).run(move || other.set_role(Role::Primary));
        match changed.map(|changed| changed.missing) {
            Ok(missing) if missing.is_empty() => Ok(self.other),
            Ok(missing) => Err(Failure::Demo(format!("the takeover is not complete: {}", missing.join("; ")))),
            Err(busy) => Err(Failure::Demo(busy.to_string())),
        }
    }
}

/// For one run of these two firewalls, which is the only one: any epoch will do.
fn settings(which: GatewayId, workers: u32, key: &secret::Key) -> Settings {
    let index = which.index();
    let at = |index: usize| SocketAddr::new(SYNC_ADDRESSES[index], PORT);
    let config = Config::new(which.name(), 1, Epoch::new(1, 0));
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
