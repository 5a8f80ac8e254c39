//! What stands between a node and Redis: a proxy that stalls, cuts at any byte or adds bytes, and
//! servers that are no Redis. Each has a Unix socket.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

/// The two ways through a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToRedis,
    ToNode,
}

/// What passes a proxy on one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passing {
    All,
    Nothing,
    /// This many bytes. Then the connection is cut, and all passes again.
    Bytes(usize),
}

struct State {
    passing: [Passing; 2],
    /// The two ends of each connection: the node's, and that of Redis.
    connections: Vec<[UnixStream; 2]>,
    cuts: usize,
    ended: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A proxy with a thread for itself and two for each connection. They end with it.
pub struct Proxy {
    path: PathBuf,
    shared: Arc<Shared>,
}

impl Proxy {
    /// A proxy to the server at `redis`, on a new socket in the same folder.
    pub fn start(redis: &Path, name: &str) -> Self {
        let path = redis.with_file_name(name);
        let listener = UnixListener::bind(&path).unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                passing: [Passing::All; 2],
                connections: Vec::new(),
                cuts: 0,
                ended: false,
            }),
            changed: Condvar::new(),
        });
        let (redis, ours) = (redis.to_owned(), Arc::clone(&shared));
        thread::spawn(move || {
            while let Ok((node, _)) = listener.accept() {
                // Without a server, the node finds a connection that is closed.
                let Ok(redis) = UnixStream::connect(&redis) else { continue };
                let mut state = ours.state.lock().unwrap();
                if state.ended {
                    return;
                }
                let both = [&node, &redis].map(|stream| stream.try_clone().unwrap());
                state.connections.push(both);
                for (way, from, to) in [
                    (Way::ToRedis, node.try_clone().unwrap(), redis.try_clone().unwrap()),
                    (Way::ToNode, redis, node),
                ] {
                    let shared = Arc::clone(&ours);
                    thread::spawn(move || shared.carry(way, from, to));
                }
            }
        });
        Self { path, shared }
    }

    /// The path of its socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Nothing passes on this way, in no connection. What comes, waits.
    pub fn stall(&self, way: Way) {
        self.set(way, Passing::Nothing);
    }

    /// Everything passes again.
    pub fn resume(&self) {
        self.set(Way::ToRedis, Passing::All);
        self.set(Way::ToNode, Passing::All);
    }

    /// Cuts the connection after this many more bytes on this way: at the byte behind them.
    pub fn cut_after(&self, way: Way, bytes: usize) {
        self.set(way, Passing::Bytes(bytes));
    }

    /// Sends bytes to the node that Redis has not sent.
    pub fn add(&self, bytes: &[u8]) {
        let state = self.shared.lock();
        let [node, _] = state.connections.last().unwrap();
        (&*node).write_all(bytes).unwrap();
    }

    /// How often it has cut a connection.
    pub fn cuts(&self) -> usize {
        self.shared.lock().cuts
    }

    fn set(&self, way: Way, passing: Passing) {
        self.shared.lock().passing[way as usize] = passing;
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        state.connections.iter().for_each(|both| both.iter().for_each(close));
        drop(state);
        self.shared.changed.notify_all();
        let _ = UnixStream::connect(&self.path); // It wakes the thread that accepts.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn close(stream: &UnixStream) {
    let _ = stream.shutdown(Shutdown::Both);
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Carries bytes from one end to the other, until one of them has ended.
    fn carry(&self, way: Way, mut from: UnixStream, mut to: UnixStream) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            if read == 0 {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            let mut bytes = &buffer[..read];
            while !bytes.is_empty() {
                let passed = self.pass(way, bytes.len()).min(bytes.len());
                if passed == 0 || to.write_all(&bytes[..passed]).is_err() {
                    close(&from);
                    close(&to);
                    return;
                }
                bytes = &bytes[passed..];
            }
        }
    }

    /// Waits until something may pass, and returns how many of these bytes; 0 cuts the connection.
    fn pass(&self, way: Way, len: usize) -> usize {
        let mut state = self.lock();
        loop {
            let State { passing, cuts, ended, .. } = &mut *state;
            let passing = &mut passing[way as usize];
            match *passing {
                Passing::All => return len,
                Passing::Bytes(0) => {
                    *passing = Passing::All;
                    *cuts += 1;
                    return 0;
                }
                Passing::Bytes(left) => {
                    *passing = Passing::Bytes(left - left.min(len));
                    return left.min(len);
                }
                Passing::Nothing if *ended => return 0,
                Passing::Nothing => state = self.changed.wait(state).unwrap(),
            }
        }
    }
}

/// A server that gives the same answer to the first bytes of each connection, and then nothing. It
/// ends with this value.
pub struct Erring {
    path: PathBuf,
    ended: Arc<Mutex<bool>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Erring {
    /// Without an answer it is silent.
    pub fn start(path: &Path, answer: &[u8]) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let (ended, answer) = (Arc::new(Mutex::new(false)), answer.to_owned());
        let is_ended = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            while let Ok((mut client, _)) = listener.accept() {
                if *is_ended.lock().unwrap() {
                    return;
                }
                let mut buffer = [0; 4096];
                let mut read = client.read(&mut buffer).unwrap_or(0);
                // The client may have had enough before the end of the answer.
                let _ = client.write_all(&answer);
                while read > 0 {
                    read = client.read(&mut buffer).unwrap_or(0);
                }
            }
        });
        Self { path: path.to_owned(), ended, thread: Some(thread) }
    }
}

impl Drop for Erring {
    /// Its client has to be gone.
    fn drop(&mut self) {
        *self.ended.lock().unwrap() = true;
        let _ = UnixStream::connect(&self.path);
        let _ = self.thread.take().unwrap().join();
        let _ = std::fs::remove_file(&self.path);
    }
}

mod tests {
    use super::*;
    use crate::redis_process::Folder;

    /// A server that sends back what it gets, and a client of it behind a proxy.
    fn pair(folder: &Folder) -> (Proxy, UnixStream) {
        let path = folder.path().join("echo");
        let listener = UnixListener::bind(&path).unwrap();
        let proxy = Proxy::start(&path, "proxy");
        let client = UnixStream::connect(proxy.path()).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            let (mut server, _) = listener.accept().unwrap();
            while let Ok(read @ 1..) = server.read(&mut buffer) {
                if server.write_all(&buffer[..read]).is_err() {
                    return;
                }
            }
        });
        (proxy, client)
    }

    #[test]
    fn a_proxy_passes_all_and_cuts_at_the_byte_that_is_asked_for() {
        for (way, expected) in [(Way::ToRedis, &b"abcdefg"[..]), (Way::ToNode, b"abcdefg")] {
            let folder = Folder::new();
            let (proxy, mut client) = pair(&folder);
            let mut answer = [0; 3];
            client.write_all(b"abc").unwrap();
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"abc");
            proxy.cut_after(way, 4);
            client.write_all(b"defghi").unwrap();
            let mut rest = answer.to_vec();
            // What is cut on the way there may end the connection before its answer is here.
            let _ = client.read_to_end(&mut rest);
            assert!(expected.starts_with(&rest), "{}", rest.escape_ascii());
            assert!(way == Way::ToRedis || rest == expected, "{}", rest.escape_ascii());
            assert_eq!(proxy.cuts(), 1);
        }
    }

    #[test]
    fn a_stalled_proxy_keeps_what_comes() {
        for way in [Way::ToRedis, Way::ToNode] {
            let folder = Folder::new();
            let (proxy, mut client) = pair(&folder);
            proxy.stall(way);
            client.write_all(b"abc").unwrap();
            client.set_nonblocking(true).unwrap();
            let mut answer = [0; 3];
            assert!(client.read(&mut answer).is_err());
            client.set_nonblocking(false).unwrap();
            proxy.resume();
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"abc");
            proxy.stall(way);
            client.write_all(b"abc").unwrap();
            drop(proxy);
            assert_eq!(client.read(&mut answer).unwrap_or(0), 0, "it ends also while it stalls");
        }
    }

    #[test]
    fn an_erring_server_answers_each_client_once() {
        let folder = Folder::new();
        let path = folder.path().join("erring");
        let server = Erring::start(&path, b"no");
        for _ in 0..2 {
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(b"HELLO").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, b"no");
        }
        drop(server);
        assert!(!path.exists());
    }
}
