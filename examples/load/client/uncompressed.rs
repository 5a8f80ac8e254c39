//! In the place of `deflate`, in a build without the feature of that name: the command line refuses
//! `--deflate`, so none of this ever is.

use ikisocket::protocol::{Compressed, Message, Violation};

pub const IS_BUILT_IN: bool = false;

pub enum Packer {}

impl Packer {
    pub fn new() -> Packer {
        unreachable!("--deflate was refused")
    }

    pub fn pack(&mut self, _: &[u8], _: &mut Vec<u8>) {
        match *self {}
    }
}

pub enum Unpacker {}

impl Unpacker {
    pub fn new() -> Unpacker {
        unreachable!("--deflate was refused")
    }

    pub fn forget(&mut self) {
        match *self {}
    }

    pub fn unpack(&mut self, _: Compressed<'_>, _: usize) -> Result<Message<'static>, Violation> {
        match *self {}
    }
}
