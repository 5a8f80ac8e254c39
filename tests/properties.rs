//! Promises for all values, tested for many of them: sizes around the changes of a frame's header,
//! and every window of permessage-deflate against `flate2` used directly. Promises for any bytes
//! are in `tests/fuzz.rs`.

use ikisocket::protocol::{
    Decoded, Decoder, FrameHeader, Message, Opcode, Role, Rules, apply_mask, encode_frame,
};

/// The only thing that comes out of a stream.
#[track_caller]
fn only_message(mut stream: Vec<u8>, role: Role) -> Message<'static> {
    let rules = Rules::default().role(role);
    let (mut decoder, mut input) = (Decoder::new(), &mut stream[..]);
    let message = match decoder.decode(&mut input, &rules) {
        Ok(Some(Decoded::Message(Message::Text(text)))) => Message::from(text.into_owned()),
        Ok(Some(Decoded::Message(Message::Binary(bytes)))) => Message::from(bytes.into_owned()),
        other => panic!("{other:?}"),
    };
    assert!(input.is_empty() && decoder.is_idle());
    message
}

#[test]
fn what_is_encoded_decodes_to_itself_at_every_size_of_header() {
    for len in (0..=300).chain(65_500..=65_570) {
        let text = "aé水😀".repeat(len / 10) + &"z".repeat(len % 10);
        for (opcode, payload) in [(Opcode::Binary, vec![7; len]), (Opcode::Text, text.into_bytes())]
        {
            let expected = match opcode {
                Opcode::Text => Message::from(String::from_utf8(payload.clone()).unwrap()),
                _ => Message::from(payload.clone()),
            };
            let mut from_server = Vec::new();
            encode_frame(opcode, &payload, &mut from_server);
            assert_eq!(only_message(from_server, Role::Client), expected);

            let key = [1, 2, 3, len as u8];
            let header =
                FrameHeader { mask: Some(key), ..FrameHeader::new(opcode, payload.len() as u64) };
            let mut from_client = Vec::new();
            header.encode(&mut from_client);
            from_client.extend_from_slice(&payload);
            apply_mask(&mut from_client[header.encoded_len()..], key, 0);
            assert_eq!(only_message(from_client, Role::Server), expected);
        }
    }
}

#[cfg(feature = "deflate")]
mod deflate {
    use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
    use ikisocket::protocol::{Deflater, Inflater};

    /// What compressors leave out at the end of a message (RFC 7692 §7.2.1).
    const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

    /// Messages that refer to each other and reach beyond every window but the largest, and some
    /// that cannot be compressed.
    fn messages() -> Vec<Vec<u8>> {
        let mut seed = 1_u32;
        let mut noise = |len: usize| -> Vec<u8> {
            let next = |_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            };
            (0..len).map(next).collect()
        };
        let text: Vec<u8> = (0..400)
            .flat_map(|n| format!("{{\"bid\": {n}.5, \"ask\": {}}}", n % 7).into_bytes())
            .collect();
        let block = noise(300);
        let far_apart = [&block[..], &noise(9000), &block].concat();
        [&text[..100], &text[..], &block, &far_apart, &block, &[0; 20_000], &text[..]]
            .map(<[u8]>::to_vec)
            .into()
    }

    /// In pieces, so that nothing but the window holds what came before.
    fn inflated(stream: &mut Decompress, mut wire: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let (mut piece, taken, given) = ([0; 50], stream.total_in(), stream.total_out());
            stream.decompress(wire, &mut piece, FlushDecompress::Sync).unwrap();
            let given = (stream.total_out() - given) as usize;
            out.extend_from_slice(&piece[..given]);
            wire = &wire[(stream.total_in() - taken) as usize..];
            if wire.is_empty() && given < piece.len() {
                return out;
            }
        }
    }

    #[test]
    fn flate2_understands_what_is_compressed_with_every_window() {
        for bits in 9..=15 {
            for level in [1, 6, 9] {
                for keep in [true, false] {
                    let (mut ours, mut theirs) =
                        (Deflater::new(level, bits), Decompress::new_with_window_bits(false, bits));
                    for message in messages() {
                        let mut wire = Vec::new();
                        ours.deflate(&message, keep, &mut wire);
                        wire.extend(TAIL);
                        let out = inflated(&mut theirs, &wire);
                        assert!(out == message, "window {bits}, level {level}, keep {keep}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_flate2_compresses_with_every_window_is_understood() {
        for bits in 9..=15 {
            for level in [1, 6, 9] {
                let mut theirs =
                    Compress::new_with_window_bits(Compression::new(level), false, bits);
                let mut ours = Inflater::new(bits);
                for message in messages() {
                    let mut wire = Vec::with_capacity(message.len() + 1000);
                    theirs.compress_vec(&message, &mut wire, FlushCompress::Sync).unwrap();
                    let wire = wire.strip_suffix(&TAIL).unwrap();
                    let mut out = Vec::new();
                    assert_eq!(
                        ours.inflate(wire, message.len(), &mut out),
                        Ok(()),
                        "window {bits}, level {level}"
                    );
                    assert!(out == message, "window {bits}, level {level}");
                }
            }
        }
    }
}
