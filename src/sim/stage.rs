//! A seeded cluster with its simulators in virtual time, for the tests of all that is played.

use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::ApiServer;
use super::fields::{self, text};
use super::kind::Kind;
use super::object::Object;
use super::seed::{Preset, Seeded, seed};
use super::{Guests, Timing, run_with_guests};
use crate::host::clock::Clock;

pub(super) struct Stage {
    pub(super) server: ApiServer,
    pub(super) guests: Guests,
    pub(super) seeded: Seeded,
    stop: CancellationToken,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) fn stage(preset: &Preset) -> Stage {
    let start: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
    let server = ApiServer::new(Clock::from(start, Instant::now()), 1);
    let (seeded, _) = seed(&server, preset, start).unwrap();
    let (guests, stop) = (Guests::default(), CancellationToken::new());
    let run = run_with_guests(server.clone(), Timing::virtual_time(start), guests.clone(), stop.clone());
    tokio::spawn(run);
    Stage { server, guests, seeded, stop }
}

impl Stage {
    pub(super) fn events(&self) -> Vec<crate::sim::wire::Events> {
        vec![crate::sim::wire::Events::of(&self.server.clone().into(), &Kind::ALL)]
    }

    pub(super) async fn settle(&self, minutes: u64) {
        tokio::time::sleep(Duration::from_mins(minutes)).await;
    }

    pub(super) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Object {
        self.server.call(&Method::GET, &kind.path(namespace, name), &Value::Null).unwrap()
    }

    pub(super) fn list(&self, kind: Kind) -> Vec<Value> {
        let list = self.server.call(&Method::GET, &kind.path("", ""), &Value::Null).unwrap();
        fields::list(&list, "/items").to_vec()
    }

    pub(super) fn patch(&self, kind: Kind, namespace: &str, name: &str, body: &Value) {
        self.server.call(&Method::PATCH, &kind.path(namespace, name), body).unwrap();
    }

    pub(super) fn cordon(&self, node: &str, on: bool) {
        let taint = json!([{"key": "kubevirt.io/drain", "value": "draining", "effect": "NoSchedule"}]);
        let body = json!({"spec": {"unschedulable": on, "taints": if on { taint } else { json!([]) }}});
        self.patch(Kind::Node, "", node, &body);
    }

    pub(super) fn on(&self, node: &str) -> usize {
        self.list(Kind::Vmi)
            .iter()
            .filter(|vmi| text(vmi, "/status/nodeName") == node && !fields::is_final(vmi))
            .count()
    }
}
