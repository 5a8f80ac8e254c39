//! XOR with the masking key (RFC 6455 §5.3). Knows bytes only.

/// Masks or unmasks `payload` in place; the two are the same operation (RFC 6455 §5.3).
///
/// `offset` is the position of `payload[0]` in its frame's payload: 0 for a whole frame, and the
/// number of bytes already done when a frame arrives in pieces. Only `offset % 4` matters.
///
/// ```
/// use ikisocket::protocol::apply_mask;
///
/// let key = [1, 2, 3, 4];
/// let mut payload = *b"Hello, world";
/// apply_mask(&mut payload, key, 0);
/// let (head, tail) = payload.split_at_mut(5);
/// apply_mask(head, key, 0);
/// apply_mask(tail, key, 5);
/// assert_eq!(&payload, b"Hello, world");
/// ```
#[inline]
pub fn apply_mask(payload: &mut [u8], key: [u8; 4], offset: usize) {
    // As a little-endian number whatever the machine, so that turning right drops the first bytes
    // of the key.
    let key = u32::from_le_bytes(key).rotate_right(8 * (offset % 4) as u32);

    // After the first, each step runs at most once: a short payload takes no loop at all.
    let rest = xor_chunks::<64>(payload, key);
    let rest = xor_chunks::<32>(rest, key);
    let rest = xor_chunks::<16>(rest, key);
    let rest = xor_chunks::<8>(rest, key);
    let rest = xor_chunks::<4>(rest, key);
    for (byte, key) in rest.iter_mut().zip(key.to_le_bytes()) {
        *byte ^= key;
    }
}

/// Masks as many chunks of `N` bytes as there are, and returns the rest. `N` is a multiple of four,
/// so that the key fits the rest as it fitted the first chunk; and a constant, so that a chunk
/// becomes a few 16-byte XORs without a loop.
#[inline(always)]
fn xor_chunks<const N: usize>(payload: &mut [u8], key: u32) -> &mut [u8] {
    let (chunks, rest) = payload.as_chunks_mut::<N>();
    for chunk in chunks {
        for word in chunk.as_chunks_mut().0 {
            *word = (u32::from_le_bytes(*word) ^ key).to_le_bytes();
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_rfc_formula_at_every_length_and_offset() {
        let key = [0x12, 0x34, 0x56, 0x78];
        for len in 0..300 {
            for offset in [0, 1, 2, 3, 4, 7, usize::MAX] {
                let plain: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
                let mut masked = plain.clone();
                apply_mask(&mut masked, key, offset);
                for (i, (plain, masked)) in plain.iter().zip(&masked).enumerate() {
                    assert_eq!(*masked, plain ^ key[(offset % 4 + i) % 4], "len {len} offset {offset} at {i}");
                }
            }
        }
    }

    #[test]
    fn masking_in_pieces_equals_masking_at_once() {
        let key = [9, 8, 7, 6];
        for cut in 0..=130 {
            let mut whole = [0x5a; 130];
            let mut pieces = whole;
            apply_mask(&mut whole, key, 0);
            let (head, tail) = pieces.split_at_mut(cut);
            apply_mask(head, key, 0);
            apply_mask(tail, key, cut);
            assert_eq!(whole, pieces, "cut at {cut}");
        }
    }
}
