//! Replaces `compression` in a build without the feature `deflate`: no connection is compressed.

use crate::protocol::{Compressed, Message, Violation};

/// There are no such messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(dead_code, reason = "the encodings of the other build")]
pub(crate) enum Encoding {
    Plain,
    Shared(Kind),
    Dedicated,
}

/// No value of this type exists, so that asking a connection for it costs nothing.
pub(crate) enum Agreed {}

impl Agreed {
    pub(crate) fn encoding(&self, _: usize) -> Encoding {
        match *self {}
    }

    pub(crate) fn keeps_context(&self) -> bool {
        match *self {}
    }

    pub(crate) fn deflate_next(&mut self, _: &mut Common, _: &[u8], _: &mut Vec<u8>) {
        match *self {}
    }

    pub(crate) fn late_work(&self, _: usize) -> usize {
        match *self {}
    }

    pub(crate) fn inflate(
        &mut self,
        _: &mut Common,
        _: Compressed<'_>,
        _: usize,
        _: &mut usize,
    ) -> Result<Option<Message<'static>>, Violation> {
        match *self {}
    }

    pub(crate) fn inflate_on(
        &mut self,
        _: usize,
        _: &mut usize,
    ) -> Result<Option<Message<'static>>, Violation> {
        match *self {}
    }

    pub(crate) fn is_inflating(&self) -> bool {
        match *self {}
    }

    pub(crate) fn forget_unfinished(&mut self) {
        match *self {}
    }
}

#[derive(Default)]
pub(crate) struct Common {}

impl Common {
    pub(crate) fn deflate(&mut self, kind: Kind, _: &[u8], _: &mut usize) -> Option<Vec<u8>> {
        match kind {}
    }

    pub(crate) fn recycle(&mut self, _: Vec<u8>) {}

    /// No cost at all.
    pub(crate) fn late_work(&self) -> usize {
        0
    }
}
