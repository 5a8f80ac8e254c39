//! The messages that compression is measured with.

/// Messages of quotes in JSON, the same in every run.
pub fn quotes(size: usize, count: usize) -> Vec<Vec<u8>> {
    let mut seed = 7_u32;
    let mut below = |end: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(seed) * u64::from(end)) >> 32) as u32
    };
    let symbols = [
        "AAPL", "AMD", "AMZN", "BA", "GOOG", "IBM", "INTC", "META", "MSFT", "NVDA", "ORCL", "TSLA",
    ];
    let mut message = || {
        let mut message = "[".to_owned();
        while message.len() < size {
            message += &format!(
                "{{\"id\":{},\"symbol\":\"{}\",\"bid\":{}.{:02},\"size\":{},\"time\":\"14:{:02}:{:02}.{:03}\"}},",
                below(10_000_000),
                symbols[below(12) as usize],
                below(1000),
                below(100),
                below(40) * 100,
                below(60),
                below(60),
                below(1000),
            );
        }
        message.truncate(size);
        message.into_bytes()
    };
    (0..count).map(|_| message()).collect()
}
