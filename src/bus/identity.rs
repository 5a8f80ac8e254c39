//! The uuids of connections while several loops run: they say which loop has the connection.
//!
//! ```text
//!   bits   48    4    12     2   16     46          (RFC 9562 §5.8: version 8)
//!        ┌─────┬───┬──────┬────┬──────┬────────┐
//!        │ run │ 8 │random│ 10 │ loop │ random │
//!        └─────┴───┴──────┴────┴──────┴────────┘
//! ```

use uuid::Uuid;

const RUN_SHIFT: u32 = 80;
const RUN_MASK: u64 = (1 << 48) - 1;
const VERSION: u128 = 8 << 76;
const VERSION_MASK: u128 = 0xf << 76;
const VARIANT: u128 = 0b10 << 62;
const VARIANT_MASK: u128 = 0b11 << 62;
const LOOP_SHIFT: u32 = 46;
/// The bits that are random in each uuid.
const RANDOM: u128 = (0xfff << 64) | ((1 << LOOP_SHIFT) - 1);

/// The number of this run of the process, which its uuids carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    run: u64,
}

impl Identity {
    pub(super) fn new(run: u64) -> Self {
        Self { run: run & RUN_MASK }
    }

    /// The number of this run, which is the number of this server among those of a bus.
    #[cfg(feature = "redis")]
    pub(super) fn run(self) -> u64 {
        self.run
    }

    /// A uuid for a connection of this loop. Of the random number, 58 bits count.
    pub(super) fn name(self, index: u16, random: u128) -> Uuid {
        let fixed =
            u128::from(self.run) << RUN_SHIFT | VERSION | VARIANT | u128::from(index) << LOOP_SHIFT;
        Uuid::from_u128(fixed | (random & RANDOM))
    }

    /// The loop whose connection was given this uuid in this run.
    pub(super) fn loop_of(self, uuid: Uuid) -> Option<u16> {
        (run_of(uuid) == Some(self.run)).then_some((uuid.as_u128() >> LOOP_SHIFT) as u16)
    }
}

/// The run that has made this uuid, if it was made like those of this file.
pub(super) fn run_of(uuid: Uuid) -> Option<u64> {
    let bits = uuid.as_u128();
    let is_like_this = bits & VERSION_MASK == VERSION && bits & VARIANT_MASK == VARIANT;
    is_like_this.then_some((bits >> RUN_SHIFT) as u64)
}

/// A random number for a run.
pub(crate) fn run_number() -> u64 {
    Uuid::new_v4().as_u64_pair().0 >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_says_its_loop_and_run_and_is_of_version_8() {
        let run = Identity::new(u64::MAX);
        for (index, random) in [(0, 0), (7, u128::MAX), (u16::MAX, 1 << 63)] {
            let uuid = run.name(index, random);
            assert_eq!((uuid.get_version_num(), uuid.get_variant()), (8, uuid::Variant::RFC4122));
            assert_eq!(run.loop_of(uuid), Some(index));
            assert_eq!(Identity::new(1).loop_of(uuid), None, "another run");
        }
        assert_eq!(run.loop_of(Uuid::new_v4()), None);
        assert_eq!(run.loop_of(Uuid::max()), None, "neither this version nor this variant");
    }

    #[test]
    fn a_uuid_has_58_random_bits() {
        let run = Identity::new(5);
        let (zeros, ones) = (run.name(3, 0).as_u128(), run.name(3, u128::MAX).as_u128());
        assert_eq!((zeros ^ ones).count_ones(), 58);
    }
}
