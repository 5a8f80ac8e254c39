//! The fuzz targets of `fuzz/`, bounded and the same in every run: all inputs that the repository
//! keeps (`fuzz/seeds`), and a fixed number of made ones.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;
use targets::input::Random;

/// An input of a target, printed if the target panics.
struct Running<'i> {
    name: String,
    input: &'i [u8],
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: the input is b\"{}\"", self.name, self.input.escape_ascii());
        }
    }
}

/// All seeds, each also damaged a few times, and made inputs.
fn run(name: &str, target: fn(&[u8]), generate: fn(&mut Random) -> Vec<u8>, rounds: u64) {
    let one = |label: String, input: &[u8]| {
        let _running = Running { name: label, input };
        target(input);
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let mut seeds: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "no seeds in {}", folder.display());
    let mut random = Random::new(1);
    for path in seeds {
        let seed = std::fs::read(&path).unwrap();
        one(path.display().to_string(), &seed);
        for round in 0..4 {
            let mut damaged = seed.clone();
            random.damage(&mut damaged);
            one(format!("{}, damaged {round}", path.display()), &damaged);
        }
    }
    for round in 0..rounds {
        let input = generate(&mut Random::new(round));
        one(format!("{name}, made {round}"), &input);
    }
}

#[test]
fn a_stream_of_frames_means_the_same_however_it_is_cut() {
    run("frames", targets::frames::run, targets::frames::generate, 3000);
}

#[test]
fn a_request_head_means_what_a_slow_parser_says() {
    run("upgrade", targets::upgrade::run, targets::upgrade::generate, 2000);
}

#[test]
fn replies_of_redis_mean_what_a_slow_parser_says() {
    run("resp", targets::resp::run, targets::resp::generate, 3000);
}

#[test]
fn messages_between_servers_mean_what_a_slow_decoder_says() {
    run("bus", targets::bus::run, targets::bus::generate, 5000);
}

#[cfg(feature = "deflate")]
#[test]
fn compressed_messages_come_out_again_and_nonsense_is_harmless() {
    run("deflate", targets::deflate::run, targets::deflate::generate, 600);
}

#[test]
fn whole_connections_keep_their_promises() {
    run("connection", targets::connection::run, targets::connection::generate, 400);
}

#[cfg(feature = "tls")]
#[test]
fn records_and_handshakes_in_any_pieces_do_no_harm() {
    run("tls", targets::tls::run, targets::tls::generate, 1000);
}
