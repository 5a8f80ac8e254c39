//! The first bytes of a broadcast message: its number, its publisher and its run. They are
//! seven-bit, so they are text as well as binary.

use crate::client::KEY;
use crate::sample::Fault;

/// How long a stamp is.
pub const STAMP_LEN: usize = MARK.len() + 2 * DIGITS_OF_PUBLISHER + DIGITS_OF_NUMBER;

/// What every stamp begins with.
const MARK: [u8; 1] = [b'#'];
const DIGITS_OF_PUBLISHER: usize = 2;
const DIGITS_OF_NUMBER: usize = 6;
const DIGIT_BITS: usize = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which run of this tool it belongs to, 14 bits: another run may use the same broadcast.
    pub run: u16,
    /// The connection that sent it, 14 bits.
    pub publisher: u16,
    /// Counts all broadcasts of the run, 42 bits.
    pub number: u64,
}

impl Stamp {
    pub fn write(self, payload: &mut [u8]) {
        let (mark, rest) = payload.split_at_mut(MARK.len());
        mark.copy_from_slice(&MARK);
        let (run, rest) = rest.split_at_mut(DIGITS_OF_PUBLISHER);
        let (publisher, rest) = rest.split_at_mut(DIGITS_OF_PUBLISHER);
        write_digits(self.run.into(), run);
        write_digits(self.publisher.into(), publisher);
        write_digits(self.number, &mut rest[..DIGITS_OF_NUMBER]);
    }

    /// What is wrong with it at a receiver that expects the number `newest` or a higher one from
    /// this publisher.
    pub fn fault_after(self, newest: u64) -> Option<Fault> {
        match newest {
            newest if self.number >= newest => None,
            newest if self.number + 1 == newest => Some(Fault::Duplicate),
            _ => Some(Fault::OutOfOrder),
        }
    }

    /// The stamp at the beginning of a message. It is also found if the server did not unmask what
    /// it passed on, as a measuring dummy may do.
    #[inline]
    pub fn read(payload: &[u8]) -> Option<Stamp> {
        let mut bytes: [u8; STAMP_LEN] = *payload.first_chunk()?;
        if bytes[0] == MARK[0] ^ KEY[0] {
            for (byte, key) in bytes.iter_mut().zip(KEY.iter().cycle()) {
                *byte ^= key;
            }
        }
        let (mark, digits) = bytes.split_at(MARK.len());
        if mark != MARK {
            return None;
        }
        let (run, digits) = digits.split_at(DIGITS_OF_PUBLISHER);
        let (publisher, number) = digits.split_at(DIGITS_OF_PUBLISHER);
        Some(Stamp {
            run: read_digits(run) as u16,
            publisher: read_digits(publisher) as u16,
            number: read_digits(number),
        })
    }
}

fn write_digits(mut value: u64, digits: &mut [u8]) {
    for digit in digits {
        *digit = (value & 0x7f) as u8;
        value >>= DIGIT_BITS;
    }
}

#[inline]
fn read_digits(digits: &[u8]) -> u64 {
    digits.iter().rev().fold(0, |value, &digit| (value << DIGIT_BITS) | u64::from(digit & 0x7f))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ikisocket::protocol::apply_mask;

    const STAMP: Stamp = Stamp { run: 12_345, publisher: 16_383, number: 4_398_046_511_103 };

    #[test]
    fn a_stamp_is_read_as_it_was_written_masked_or_not() {
        let mut payload = [b'x'; 40];
        STAMP.write(&mut payload);
        assert!(payload.is_ascii());
        assert_eq!(Stamp::read(&payload), Some(STAMP));
        apply_mask(&mut payload, KEY, 0);
        assert_eq!(Stamp::read(&payload), Some(STAMP));
    }

    #[test]
    fn a_number_comes_once_and_in_order() {
        let stamp = Stamp { number: 5, ..STAMP };
        assert_eq!([0, 5].map(|newest| stamp.fault_after(newest)), [None; 2]);
        assert_eq!(stamp.fault_after(6), Some(Fault::Duplicate));
        assert_eq!(stamp.fault_after(9), Some(Fault::OutOfOrder));
    }

    #[test]
    fn other_messages_have_no_stamp() {
        assert_eq!(Stamp::read(b"#"), None);
        assert_eq!(Stamp::read(b"New user connected: 1"), None);
    }
}
