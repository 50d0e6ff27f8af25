//! Which routes each port of a node answers, where replication or administration has a port of its own.
//!
//! A network policy distinguishes ports, but not paths. So a route that has a port of its own is refused at every other one. What
//! a node answers to everybody about itself (health, status, metrics) it also answers at the port of administration.

use axum::http::StatusCode;
use hyper::Request;

use super::answer::Answer;
use super::client_stream::Arriving;
use super::connections::Service;
use super::error::ApiError;
use super::guard::{self, Purpose};

/// The ports of their own, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Apart {
    /// `REPLICATION_PORT`.
    pub(crate) replication: Option<u16>,
    /// `ADMIN_PORT`.
    pub(crate) administration: Option<u16>,
}

impl Apart {
    /// Why the port for `door` does not answer a request for `purpose`; `None` where it does.
    fn refusal(self, door: Purpose, purpose: Purpose) -> Option<String> {
        let elsewhere = |setting: &str, port: u16| Some(format!("{setting} ({port})"));
        match (purpose, door) {
            (Purpose::Replication, Purpose::Replication) | (Purpose::Administration, Purpose::Administration) => None,
            (Purpose::Replication, _) if self.replication.is_some() => elsewhere("REPLICATION_PORT", self.replication?),
            (Purpose::Administration, _) if self.administration.is_some() => {
                elsewhere("ADMIN_PORT", self.administration?)
            }
            (Purpose::Anyone, Purpose::Administration) | (Purpose::Reads, Purpose::Replication) => None,
            (_, Purpose::Clients) => None,
            _ => Some("PORT".to_owned()),
        }
    }
}

/// The service behind one port.
#[derive(Clone)]
pub(crate) struct Behind<S> {
    service: S,
    /// `None` where there is one port for everything.
    door: Option<(Purpose, Apart)>,
}

impl<S> Behind<S> {
    /// The part of `service` that the port for `door` answers.
    pub(crate) fn new(service: S, door: Purpose, apart: Apart) -> Self {
        Self { service, door: (apart != Apart::default()).then_some((door, apart)) }
    }
}

impl<S: Service> Service for Behind<S> {
    async fn answer(&self, request: Request<Arriving>) -> Answer {
        if let Some((door, apart)) = self.door {
            let path = request.uri().path();
            let purpose = guard::purpose(request.method(), path);
            if let Some(port) = apart.refusal(door, purpose) {
                return ApiError::early(StatusCode::NOT_FOUND, format!("this port does not serve {path}: {port} does"))
                    .into();
            }
        }
        self.service.answer(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Goal: with every combination of ports each request has exactly one purpose's port, and no other port answers what has one
    // of its own. Method: all combinations, with the expected answers beside.
    #[test]
    fn what_has_a_port_of_its_own_is_answered_there_alone() {
        use Purpose::{Administration, Anyone, Clients, Reads, Replication};
        let both = Apart { replication: Some(8001), administration: Some(8002) };
        let replication = Apart { administration: None, ..both };
        let administration = Apart { replication: None, ..both };
        for (apart, door, served) in [
            (both, Clients, vec![Clients, Reads, Anyone]),
            (both, Replication, vec![Replication, Reads]),
            (both, Administration, vec![Administration, Anyone]),
            (replication, Clients, vec![Clients, Reads, Administration, Anyone]),
            (replication, Replication, vec![Replication, Reads]),
            (administration, Clients, vec![Clients, Reads, Replication, Anyone]),
            (administration, Administration, vec![Administration, Anyone]),
        ] {
            for purpose in [Clients, Reads, Replication, Administration, Anyone] {
                let refusal = apart.refusal(door, purpose);
                assert_eq!(refusal.is_none(), served.contains(&purpose), "{purpose:?} at {door:?} of {apart:?}");
            }
        }
        assert_eq!(both.refusal(Clients, Administration).as_deref(), Some("ADMIN_PORT (8002)"));
        assert_eq!(both.refusal(Administration, Replication).as_deref(), Some("REPLICATION_PORT (8001)"));
        assert_eq!(both.refusal(Administration, Clients).as_deref(), Some("PORT"));
    }
}
