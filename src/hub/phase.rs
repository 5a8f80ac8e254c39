//! The state machine of a connection, from its accept to its removal.
//!
//! `step` is the whole state machine, as one table: in which state, what happened, which state is
//! next, what is sent, which events fire. ARCHITECTURE.md shows the same table, and a test compares
//! the two cell by cell. The hub carries a step out (`transitions`). Nothing here knows a socket, a
//! byte or a clock.

use super::pending_request::{Head, Parked};
use crate::error::Error;
use crate::protocol::CloseCode;

/// The phase of a connection's life, with the state that belongs to it alone.
pub(crate) enum Phase {
    /// Waiting for the end of the request head.
    Handshaking(Option<Box<Head>>),
    /// A filter has deferred the answer to the request. The request and its attributes are stored
    /// as those of an open connection.
    Parked(Box<Parked>),
    Open,
    /// Our close frame is queued or sent. The connection waits for the peer's close frame and for
    /// the end of our queue.
    Closing(Box<CloseState>),
    /// Queued bytes are written, and no more are added. Bytes from the peer are discarded.
    Draining,
    /// Our FIN is sent, and the connection waits for the peer's. Bytes from the peer are discarded.
    HalfClosed {
        /// Both close frames have been sent.
        answered: bool,
    },
    /// To be removed at the end of the turn.
    Dead,
}

/// A close in progress, and the details of its `disconnect`.
pub(crate) struct CloseState {
    pub(super) peer: PeerClose,
    pub(super) error: Option<Error>,
    pub(super) code: Option<CloseCode>,
    pub(super) reason: String,
}

/// The state of the peer's close frame, once ours is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerClose {
    Awaited,
    /// It has arrived.
    Answered,
    /// It will not arrive: the peer has sent bytes that no frame can follow, or its FIN.
    Broken,
}

/// The phase alone, without its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Handshaking,
    Parked,
    Open,
    Closing(PeerClose),
    Draining,
    HalfClosed { answered: bool },
    Dead,
}

impl Phase {
    #[inline]
    pub(super) fn state(&self) -> State {
        match self {
            Self::Handshaking(_) => State::Handshaking,
            Self::Parked(_) => State::Parked,
            Self::Open => State::Open,
            Self::Closing(close) => State::Closing(close.peer),
            Self::Draining => State::Draining,
            Self::HalfClosed { answered } => State::HalfClosed { answered: *answered },
            Self::Dead => State::Dead,
        }
    }
}

impl State {
    #[cfg(test)]
    pub(super) const ALL: [Self; 10] = [
        Self::Handshaking,
        Self::Parked,
        Self::Open,
        Self::Closing(PeerClose::Awaited),
        Self::Closing(PeerClose::Answered),
        Self::Closing(PeerClose::Broken),
        Self::Draining,
        Self::HalfClosed { answered: false },
        Self::HalfClosed { answered: true },
        Self::Dead,
    ];

    /// The phase of this state; `None` for a request without an answer, which has state of its own.
    pub(super) fn with(self, close: CloseState) -> Option<Phase> {
        Some(match self {
            Self::Handshaking | Self::Parked => return None,
            Self::Open => Phase::Open,
            Self::Closing(_) => Phase::Closing(Box::new(close)),
            Self::Draining => Phase::Draining,
            Self::HalfClosed { answered } => Phase::HalfClosed { answered },
            Self::Dead => Phase::Dead,
        })
    }

    /// Whether the connection sends nothing more than what is queued.
    pub(super) fn is_ending(self) -> bool {
        !matches!(self, Self::Handshaking | Self::Parked | Self::Open)
    }
}

/// The things that can happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// No filter objects to the upgrade.
    Upgraded,
    /// A filter deferred the answer to the request.
    Deferred,
    /// The answer to a deferred request has come. The other filters run, or the request gets its
    /// response.
    Resumed,
    /// The request gets a response instead of an upgrade.
    Responded,
    /// We close: `close`, or a shutdown.
    Closed,
    /// The peer's close frame has come.
    PeerClosed,
    /// The peer's FIN has come.
    PeerFinished,
    /// It failed for a reason that a close frame can report to the peer: a violation, a panic, a
    /// reader that was too slow and has received no part of a frame.
    Failed,
    /// It failed for a reason that cannot be reported to the peer: the peer is silent, takes
    /// nothing, or was too slow and has received a part of a frame.
    Unreachable,
    /// Reading from or writing to its socket failed.
    SocketFailed,
    /// Its TLS session failed: nothing more can be said but the alert, which is on its way.
    #[cfg_attr(not(feature = "_tls"), allow(dead_code))]
    SessionFailed,
    /// Its socket has taken all that was queued, and the peer's FIN has not come.
    Emptied,
    /// Its socket has taken all that was queued, and the peer's FIN came before that.
    EmptiedAfterFin,
    /// The time for the request, or the time to end, is over, or a shutdown ends it.
    TimedOut,
    /// `abort` was called.
    Aborted,
}

#[cfg(test)]
impl Happened {
    pub(super) const ALL: [Self; 15] = [
        Self::Upgraded,
        Self::Deferred,
        Self::Resumed,
        Self::Responded,
        Self::Closed,
        Self::PeerClosed,
        Self::PeerFinished,
        Self::Failed,
        Self::Unreachable,
        Self::SocketFailed,
        Self::SessionFailed,
        Self::Emptied,
        Self::EmptiedAfterFin,
        Self::TimedOut,
        Self::Aborted,
    ];
}

/// The output of a step to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sends {
    Nothing,
    /// The 101, or another response.
    Response,
    /// A close frame, behind everything that is queued.
    Close,
    Fin,
    /// A reset in place of the queued bytes.
    Reset,
    /// A reset, unless the socket has taken everything and was never full: then nothing. So the
    /// peer cannot mistake a part for the whole, and the kernel does not keep the rest.
    ResetIfShort,
}

/// The events that a step fires, in this order: `close`, `error`, `disconnect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fires {
    Nothing,
    Close,
    /// `error`, if the code of the peer's close frame reports a failure.
    Error,
    Disconnect {
        /// Both sides sent a close frame, and the socket has taken everything.
        clean: bool,
    },
    ErrorAndDisconnect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) next: State,
    pub(super) sends: Sends,
    pub(super) fires: Fires,
}

/// The step when this happens in that state; `None` if it changes nothing.
#[inline]
pub(super) fn follows(state: State, happened: Happened) -> Option<Step> {
    let step = step(state, happened);
    (step.next != state).then_some(step)
}

/// The table. A case that is not listed changes nothing: an end that has begun does not begin
/// again.
fn step(state: State, happened: Happened) -> Step {
    use Happened::*;
    use PeerClose::{Answered, Awaited, Broken};
    use State::*;
    const CLEAN: Fires = Fires::Disconnect { clean: true };
    const UNCLEAN: Fires = Fires::Disconnect { clean: false };

    let (next, sends, fires) = match (state, happened) {
        (Handshaking, Upgraded) => (Open, Sends::Response, Fires::Nothing),
        (Handshaking, Deferred) => (Parked, Sends::Nothing, Fires::Nothing),
        (Parked, Resumed) => (Handshaking, Sends::Nothing, Fires::Nothing),
        (Handshaking | Parked, Responded) => (Draining, Sends::Response, Fires::Nothing),
        (Handshaking | Parked, PeerFinished | SocketFailed | TimedOut) => {
            (Dead, Sends::Nothing, Fires::Nothing)
        }
        // The peer's input is discarded until its FIN. Closing earlier would send a reset, which
        // can overtake the alert.
        (Handshaking | Parked, SessionFailed) => (Draining, Sends::Nothing, Fires::Nothing),
        (Handshaking | Parked, Aborted) => (Dead, Sends::Reset, Fires::Nothing),

        (Open, Closed) => (Closing(Awaited), Sends::Close, Fires::Close),
        (Open, PeerClosed) => (Closing(Answered), Sends::Close, Fires::Error),
        (Open, PeerFinished) => (Draining, Sends::Nothing, Fires::ErrorAndDisconnect),
        (Open, Failed) => (Draining, Sends::Close, Fires::ErrorAndDisconnect),
        (Open, Unreachable) => (Dead, Sends::Reset, Fires::ErrorAndDisconnect),
        (Open, SocketFailed) => (Dead, Sends::Nothing, Fires::ErrorAndDisconnect),
        (Open, SessionFailed) => (Draining, Sends::Nothing, Fires::ErrorAndDisconnect),
        (Open, Aborted) => (Dead, Sends::Reset, UNCLEAN),

        (Closing(Awaited), PeerClosed) => (Closing(Answered), Sends::Nothing, Fires::Nothing),
        // The messages that were emitted before our close frame still reach the peer.
        (Closing(Awaited), Failed | PeerFinished) => {
            (Closing(Broken), Sends::Nothing, Fires::Nothing)
        }
        (Closing(Answered), Emptied) => (HalfClosed { answered: true }, Sends::Fin, CLEAN),
        (Closing(Answered), EmptiedAfterFin) => (Dead, Sends::Fin, CLEAN),
        (Closing(Broken), Emptied) => (HalfClosed { answered: false }, Sends::Fin, UNCLEAN),
        (Closing(Broken), EmptiedAfterFin) => (Dead, Sends::Fin, UNCLEAN),
        (Closing(_), Unreachable) => (Dead, Sends::ResetIfShort, Fires::ErrorAndDisconnect),
        (Closing(_), TimedOut) => (Dead, Sends::ResetIfShort, UNCLEAN),
        (Closing(_), SocketFailed) => (Dead, Sends::Nothing, UNCLEAN),
        (Closing(_), SessionFailed) => (Draining, Sends::Nothing, UNCLEAN),
        (Closing(_), Aborted) => (Dead, Sends::Reset, UNCLEAN),

        // Its events have fired already.
        (Draining, Emptied) => (HalfClosed { answered: false }, Sends::Fin, Fires::Nothing),
        (Draining, EmptiedAfterFin) => (Dead, Sends::Fin, Fires::Nothing),
        (HalfClosed { .. }, PeerFinished) => (Dead, Sends::Nothing, Fires::Nothing),
        (Draining | HalfClosed { .. }, Unreachable | TimedOut) => {
            (Dead, Sends::ResetIfShort, Fires::Nothing)
        }
        (Draining | HalfClosed { .. }, SocketFailed) => (Dead, Sends::Nothing, Fires::Nothing),
        (Draining | HalfClosed { .. }, Aborted) => (Dead, Sends::Reset, Fires::Nothing),

        _ => (state, Sends::Nothing, Fires::Nothing),
    };
    Step { next, sends, fires }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_name(state: State) -> String {
        match state {
            State::Closing(peer) => format!("Closing ({})", format!("{peer:?}").to_lowercase()),
            State::HalfClosed { .. } => "HalfClosed".to_owned(),
            other => format!("{other:?}"),
        }
    }

    /// A step as the last three columns of the table in ARCHITECTURE.md.
    fn columns(Step { next, sends, fires }: Step) -> [String; 3] {
        let sends = match sends {
            Sends::Nothing => "",
            Sends::Response => "response",
            Sends::Close => "close frame",
            Sends::Fin => "FIN",
            Sends::Reset => "reset",
            Sends::ResetIfShort => "reset if short",
        };
        let fires = match fires {
            Fires::Nothing => "",
            Fires::Close => "`close`",
            Fires::Error => "`error` if the code is one",
            Fires::Disconnect { clean: true } => "`disconnect`, clean",
            Fires::Disconnect { clean: false } => "`disconnect`",
            Fires::ErrorAndDisconnect => "`error`, `disconnect`",
        };
        [state_name(next), sends.to_owned(), fires.to_owned()]
    }

    #[test]
    fn the_table_in_architecture_md_is_the_one_that_runs() {
        let page = include_str!("../../ARCHITECTURE.md");
        let rows =
            page.lines().skip_while(|line| !line.starts_with("| phase | what happened |")).skip(2);
        let rows: Vec<Vec<&str>> = rows
            .take_while(|line| line.starts_with('|'))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let mut seen = 0;
        for state in State::ALL {
            for happened in Happened::ALL {
                let step = step(state, happened);
                let (phase, what) = (state_name(state), format!("{happened:?}"));
                let row = rows.iter().find(|row| {
                    row[0].split(", ").any(|each| each == phase)
                        && row[1].split(", ").any(|each| each == what)
                });
                match row {
                    Some(row) => assert_eq!(columns(step), row[2..], "{phase}: {what}"),
                    None => assert_eq!(
                        step,
                        Step { next: state, sends: Sends::Nothing, fires: Fires::Nothing }
                    ),
                }
                seen += usize::from(row.is_some());
            }
        }
        let cells = |row: &Vec<&str>| row[0].split(", ").count() * row[1].split(", ").count();
        let half_closed: usize = rows
            .iter()
            .filter(|row| row[0].contains("HalfClosed"))
            .map(|row| row[1].split(", ").count())
            .sum();
        assert_eq!(
            seen,
            rows.iter().map(cells).sum::<usize>() + half_closed,
            "each row names what there is, once"
        );
    }

    #[test]
    fn a_connection_never_goes_back_and_nothing_happens_to_a_dead_one() {
        let rank = |state: State| match state {
            State::Handshaking | State::Parked => 0,
            State::Open => 1,
            State::Closing(PeerClose::Awaited) => 2,
            State::Closing(_) => 3,
            State::Draining => 4,
            State::HalfClosed { .. } => 5,
            State::Dead => 6,
        };
        for state in State::ALL {
            for happened in Happened::ALL {
                let next = step(state, happened).next;
                assert!(rank(next) >= rank(state), "{state:?}: {happened:?}");
                assert!(state != State::Dead || next == State::Dead);
            }
        }
    }

    #[test]
    fn disconnect_fires_once_and_last_whatever_happens_in_which_order() {
        // Depth-first over every sequence of different states, from an open connection.
        fn walk(state: State, disconnected: bool, walks: &mut usize) {
            for happened in Happened::ALL {
                let Step { next, fires, .. } = step(state, happened);
                if next == state {
                    continue;
                }
                assert!(!disconnected || fires == Fires::Nothing, "{state:?}: {happened:?}");
                let now = matches!(fires, Fires::Disconnect { .. } | Fires::ErrorAndDisconnect);
                assert!(next != State::Dead || disconnected || now, "{state:?}: {happened:?}");
                *walks += usize::from(next == State::Dead);
                walk(next, disconnected || now, walks);
            }
        }
        let mut walks = 0;
        walk(State::Open, false, &mut walks);
        assert!(walks > 50, "{walks} walks");
    }
}
