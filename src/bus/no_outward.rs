//! What a loop has for other servers, without the feature `redis`: nothing.

use std::sync::Arc;

use uuid::Uuid;

use super::batch::{Question, Ready, To};
use super::link::Link;
use super::node::Node;
use super::post::Post;
use super::sent::BusSent;
use crate::protocol::CloseCode;

impl Post {
    pub(super) fn look_at_topic(&self, _index: u16, _topic: &str) {}

    pub(super) fn look_at_uuid(&self, _index: u16, _uuid: Uuid) {}
}

impl Link {
    pub(crate) fn nodes(&self) -> Arc<[u64]> {
        Arc::default()
    }

    pub(crate) fn is_ready(&self) -> bool {
        true
    }

    pub(crate) fn node(&self) -> Option<Node> {
        None
    }

    pub(crate) fn is_bus_up(&self) -> bool {
        false
    }

    pub(crate) fn has_bus(&self) -> bool {
        false
    }

    pub(crate) fn send_message_away(
        &mut self,
        _to: To,
        _text: &str,
        _message: &Ready<'_>,
    ) -> BusSent {
        BusSent::None
    }

    pub(crate) fn send_close_away(
        &mut self,
        _uuid: Uuid,
        _code: CloseCode,
        _reason: &str,
    ) -> BusSent {
        BusSent::None
    }

    pub(crate) fn ask_away(&mut self, _query: u64, _question: Question, _topic: &str) -> BusSent {
        BusSent::None
    }
}
