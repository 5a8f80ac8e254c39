//! The live line on a terminal; nothing where stderr is none.

use crate::scenario::Shared;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stderr, stdout};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub fn new() -> Progress {
        let target = match stdout().is_terminal() && stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        Progress { bar: ProgressBar::with_draw_target(None, target) }
    }

    /// What is being done from now on, and for how long.
    pub fn phase(&self, name: &'static str, length: Option<Duration>) {
        let template = match length {
            Some(_) => "{prefix} [{wide_bar}] {msg}",
            None => "{spinner} {prefix} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_prefix(name);
        self.bar.reset();
        self.bar.set_length(length.unwrap_or_default().as_millis() as u64);
    }

    /// To be called while one waits: shows how far it is, and how fast.
    pub fn ticker(&self) -> impl FnMut(&Shared) + use<> {
        let bar = self.bar.clone();
        let (mut then, mut before) = (Instant::now(), 0);
        move |shared| {
            let finished = shared.finished.load(Ordering::Relaxed);
            let rate = (finished - before) as f64 / then.elapsed().as_secs_f64().max(1e-3);
            (then, before) = (Instant::now(), finished);
            bar.set_position(bar.elapsed().as_millis() as u64);
            bar.set_message(format!("{}/s", crate::report::grouped(rate.round())));
        }
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
