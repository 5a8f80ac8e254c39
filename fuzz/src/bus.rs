//! A message between servers is what a slow decoder says, or both refuse it. What is readable is
//! encoded again to the same bytes.
//!
//! An input: the message.

use super::input::Random;
use ikisocket::Uuid;
use ikisocket::bus_messages::reencode_bus_frame;
use ikisocket::protocol::{CloseCode, Opcode};

// The names are those of the crate's own types, so that both print the same.

#[derive(Debug)]
#[allow(dead_code)] // They are printed.
struct Frame {
    node: u64,
    number: u64,
    body: Body,
}

#[derive(Debug)]
#[allow(dead_code)]
struct Content {
    opcode: Opcode,
    options: SendOptions,
    payload: Vec<u8>,
}

#[derive(Debug)]
#[allow(dead_code)]
struct SendOptions {
    compress: bool,
    key: Option<u64>,
}

#[derive(Debug)]
#[allow(dead_code)]
enum Body {
    Publish(Content),
    Broadcast(Content),
    Emit(Uuid, Content),
    EmitList(Vec<Uuid>, Content),
    Fire(String, Content),
    Close(Uuid, CloseCode, String),
    Ask { query: u64, question: Question, topic: String },
    Answer { query: u64, is_complete: bool, found: Found },
    Heartbeat,
    Bye,
}

#[derive(Debug)]
enum Question {
    Open,
    Uuids,
    MemberCount,
    Members,
}

#[derive(Debug)]
#[allow(dead_code)]
enum Found {
    Count(u64),
    Uuids { uuids: Vec<Uuid>, more: bool },
}

pub fn run(data: &[u8]) {
    let mut again = Vec::new();
    let decoded = match reencode_bus_frame(data, &mut again) {
        Ok(frame) => {
            assert_eq!(again, data, "{frame:?} is encoded in another way");
            Ok(format!("{frame:?}"))
        }
        Err(error) => Err(format!("{error:?}")),
    };
    let expected = slow(data);
    match (&decoded, data) {
        (Err(error), [version, ..]) if *version != 1 => {
            assert_eq!(error, &format!("Version({version})"));
        }
        (Err(error), _) => assert!(error.starts_with("Malformed"), "{error}"),
        _ => {}
    }
    assert_eq!(decoded.ok(), expected.map(|frame| format!("{frame:?}")));
}

/// Takes fields from the front of a message.
struct Fields(std::collections::VecDeque<u8>);

impl Fields {
    fn number(&mut self, bytes: usize) -> Option<u64> {
        (0..bytes).try_fold(0, |number, _| Some(number << 8 | u64::from(self.0.pop_front()?)))
    }

    fn bytes(&mut self, len: u64) -> Option<Vec<u8>> {
        (len <= self.0.len() as u64).then(|| self.0.drain(..len as usize).collect())
    }

    fn uuid(&mut self) -> Option<Uuid> {
        let (high, low) = (self.number(8)?, self.number(8)?);
        Some(Uuid::from_u64_pair(high, low))
    }

    fn text(&mut self) -> Option<String> {
        let len = self.number(2)?;
        String::from_utf8(self.bytes(len)?).ok()
    }

    fn flag(&mut self) -> Option<bool> {
        match self.number(1)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// All that is left.
    fn content(&mut self, options: SendOptions, is_binary: bool) -> Option<Content> {
        let payload: Vec<u8> = self.0.drain(..).collect();
        let is_valid = is_binary || std::str::from_utf8(&payload).is_ok();
        let opcode = if is_binary { Opcode::Binary } else { Opcode::Text };
        is_valid.then_some(Content { opcode, options, payload })
    }
}

fn slow(data: &[u8]) -> Option<Frame> {
    let mut fields = Fields(data.iter().copied().collect());
    let (version, kind) = (fields.number(1)?, fields.number(1)?);
    let (node, number) = (fields.number(6)?, fields.number(8)?);
    if version != 1 {
        return None;
    }
    let [is_uncompressed, is_latest, is_binary] = [32, 64, 128].map(|flag| kind / flag % 2 == 1);
    let body = if let kind @ 1..=5 = kind % 32 {
        let key = if is_latest { Some(fields.number(8)?) } else { None };
        let options = SendOptions { compress: !is_uncompressed, key };
        match kind {
            1 => Body::Publish(fields.content(options, is_binary)?),
            2 => Body::Broadcast(fields.content(options, is_binary)?),
            3 => Body::Emit(fields.uuid()?, fields.content(options, is_binary)?),
            4 => {
                let count = fields.number(4)?;
                let uuids = (0..count).map(|_| fields.uuid()).collect::<Option<_>>()?;
                Body::EmitList(uuids, fields.content(options, is_binary)?)
            }
            _ => Body::Fire(fields.text()?, fields.content(options, is_binary)?),
        }
    } else {
        match kind {
            6 => {
                let (uuid, code, reason) = (fields.uuid()?, fields.number(2)?, fields.text()?);
                let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
                if !may_be_sent || reason.len() > 123 {
                    return None;
                }
                Body::Close(uuid, CloseCode::from(code as u16), reason)
            }
            7 => {
                let query = fields.number(8)?;
                let question = match fields.number(1)? {
                    0 => Question::Open,
                    1 => Question::Uuids,
                    2 => Question::MemberCount,
                    3 => Question::Members,
                    _ => return None,
                };
                Body::Ask { query, question, topic: fields.text()? }
            }
            8 => {
                let (query, is_complete) = (fields.number(8)?, fields.flag()?);
                Body::Answer { query, is_complete, found: Found::Count(fields.number(8)?) }
            }
            9 => {
                let (query, bits) = (fields.number(8)?, fields.number(1)?);
                if bits > 3 {
                    return None;
                }
                let mut uuids = Vec::new();
                while !fields.0.is_empty() {
                    uuids.push(fields.uuid()?);
                }
                let found = Found::Uuids { uuids, more: bits >= 2 };
                Body::Answer { query, is_complete: bits % 2 == 1, found }
            }
            10 => Body::Heartbeat,
            11 => Body::Bye,
            _ => return None,
        }
    };
    fields.0.is_empty().then_some(Frame { node, number, body })
}

/// A message, often a damaged one.
pub fn generate(random: &mut Random) -> Vec<u8> {
    let kind = 1 + random.below(11) as u8;
    let flags = if kind <= 5 || random.one_in(10) { random.byte() & 0xe0 } else { 0 };
    let mut data = vec![if random.one_in(50) { random.byte() } else { 1 }, kind | flags];
    data.extend(random.bytes(14));
    if kind <= 5 && flags & 0x40 != 0 {
        data.extend(random.bytes(8));
    }
    let texts = ["", "prices", "é水😀", "a text that is longer than the blocks of 64 bytes, é水😀"];
    let text = |random: &mut Random, data: &mut Vec<u8>| {
        let text = random.pick(&texts).repeat([1, 1, 1, 3][random.below(4)]);
        data.extend((text.len() as u16).to_be_bytes());
        data.extend(text.bytes());
    };
    let uuids = random.below(4);
    match kind {
        3 => data.extend(random.bytes(16)),
        4 => {
            let count = if random.one_in(10) { u32::MAX } else { uuids as u32 };
            data.extend(count.to_be_bytes());
            data.extend(random.bytes(16 * uuids));
        }
        5 => text(random, &mut data),
        6 => {
            data.extend(random.bytes(16));
            let codes = [1000, 1001, 1003, 1004, 1007, 1014, 1015, 3000, 4999, 5000, 0];
            data.extend(random.pick::<u16>(&codes).to_be_bytes());
            text(random, &mut data);
        }
        7 => {
            data.extend(random.bytes(8));
            data.push(random.below(5) as u8);
            text(random, &mut data);
        }
        8 => {
            data.extend(random.bytes(8));
            data.push(random.below(3) as u8);
            data.extend(random.bytes(8));
        }
        9 => {
            data.extend(random.bytes(8));
            data.push(random.below(5) as u8);
            data.extend(random.bytes(16 * uuids));
        }
        _ => {}
    }
    if kind <= 5 {
        let binary = random.bytes(20);
        let payload = if flags & 0x80 == 0 { random.pick(&texts).as_bytes() } else { &binary };
        data.extend(payload);
    }
    if random.one_in(3) {
        random.damage(&mut data);
    }
    data
}
