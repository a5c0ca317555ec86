//! The loopback ports of a node: kubelet's, etcd's and the supervisor's, as RKE2's state has them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::SimMachine;
use super::state::State;
use crate::flow::plan::Role;
use crate::host::probe::ProbeError;

const KUBELET: u16 = 10248;
const ETCD: u16 = 2381;
const SUPERVISOR: u16 = 9345;

/// How a port misbehaves while its service runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortFault {
    /// It accepts and says nothing.
    Silent,
    /// It answers this.
    Says(u16, String),
    /// Nobody listens.
    Closed,
}

enum Port {
    Closed,
    Silent,
    Says(u16, String),
}

impl State {
    fn port(&self, address: SocketAddr, has_quorum: bool) -> Port {
        let server = self.spec.role == Role::Server;
        let (open, body) = match address.port() {
            KUBELET => (self.service.is_running(), "ok"),
            // A container: it outlives RKE2.
            ETCD => (server && self.containers, "{\"health\":\"true\",\"reason\":\"\"}"),
            SUPERVISOR => (server && self.service.is_running(), "supervisor"),
            _ => (false, ""),
        };
        if !open || !self.is_on() || address.ip() != self.spec.address {
            return Port::Closed;
        }
        match self.ports.get(&address.port()) {
            // So it says of itself also when it is the others that are away.
            None if address.port() == ETCD && !has_quorum => {
                Port::Says(503, "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}".to_owned())
            }
            None => Port::Says(200, body.to_owned()),
            Some(PortFault::Silent) => Port::Silent,
            Some(PortFault::Says(code, body)) => Port::Says(*code, body.clone()),
            Some(PortFault::Closed) => Port::Closed,
        }
    }
}

impl SimMachine {
    /// From now on the port misbehaves; `None` mends it.
    pub fn break_port(&self, port: u16, fault: Option<PortFault>) {
        self.with(|state| match fault {
            Some(fault) => {
                state.ports.insert(port, fault);
            }
            None => {
                state.ports.remove(&port);
            }
        });
    }

    pub(super) async fn answer_get(
        &self,
        addr: SocketAddr,
        path: &str,
        deadline: Duration,
    ) -> Result<(u16, String), ProbeError> {
        let path = path.to_owned();
        let has_quorum = addr.port() != ETCD || self.etcd_has_quorum();
        match self.look(|state| state.port(addr, has_quorum)) {
            Port::Says(code, body) => Ok((code, body)),
            Port::Closed => {
                let source = io::ErrorKind::ConnectionRefused.into();
                Err(ProbeError::NoAnswer { addr, path, source })
            }
            Port::Silent => {
                tokio::time::sleep(deadline).await;
                Err(ProbeError::TimedOut { addr, path, deadline })
            }
        }
    }

    pub(super) fn answer_connect(&self, address: SocketAddr) -> io::Result<()> {
        match self.look(|state| state.port(address, true)) {
            Port::Says(..) | Port::Silent => Ok(()),
            Port::Closed => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}
