//! Questions to other loops, and the callbacks that wait for the answers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::timers::TimerId;
use crate::bus::LoopSet;

/// A question that was asked.
pub(crate) struct Query<C, F> {
    pub(crate) callback: C,
    /// When this timer fires, the callback is called with what is there.
    pub(crate) timer: TimerId,
    /// The loops whose answers are missing.
    pub(crate) missing: LoopSet,
    /// The servers whose answers are missing.
    pub(crate) missing_nodes: Vec<u64>,
    /// The answers so far.
    pub(crate) found: F,
}

impl<C, F> Query<C, F> {
    fn is_over(&self) -> bool {
        self.missing.is_empty() && self.missing_nodes.is_empty()
    }
}

/// The questions that are not answered yet.
pub(crate) struct Queries<C, F> {
    newest: Cell<u64>,
    open: RefCell<HashMap<u64, Query<C, F>>>,
}

impl<C, F> Default for Queries<C, F> {
    fn default() -> Self {
        Self { newest: Cell::new(0), open: RefCell::new(HashMap::new()) }
    }
}

impl<C, F> Queries<C, F> {
    /// The number for the next question.
    pub(crate) fn next(&self) -> u64 {
        self.newest.set(self.newest.get() + 1);
        self.newest.get()
    }

    pub(crate) fn insert(&self, number: u64, query: Query<C, F>) {
        self.open.borrow_mut().insert(number, query);
    }

    /// Waits no more for this server, or for any server if there is no number. `missing` is called
    /// for each question with those of them that have not answered. Returns the questions for which
    /// nothing is missing now.
    #[cfg(feature = "redis")]
    pub(crate) fn give_up_nodes(
        &self,
        node: Option<u64>,
        missing: impl Fn(&mut F, Vec<u64>),
    ) -> Vec<u64> {
        let mut open = self.open.borrow_mut();
        let is_given_up = |each: &mut u64| node.is_none_or(|node| node == *each);
        let over = open.iter_mut().filter_map(|(number, query)| {
            let nodes: Vec<_> = query.missing_nodes.extract_if(.., is_given_up).collect();
            let has_waited = !nodes.is_empty();
            missing(&mut query.found, nodes);
            (has_waited && query.is_over()).then_some(*number)
        });
        over.collect()
    }

    /// The number of open questions.
    #[cfg(feature = "redis")]
    pub(crate) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Takes a question to end it.
    pub(crate) fn take(&self, number: u64) -> Option<Query<C, F>> {
        self.open.borrow_mut().remove(&number)
    }

    /// Adds the answer of one loop; returns whether none is missing any more. An answer that is too
    /// late belongs to no question.
    pub(crate) fn add(&self, number: u64, from: u16, add: impl FnOnce(&mut F)) -> bool {
        let mut open = self.open.borrow_mut();
        let Some(query) = open.get_mut(&number).filter(|query| query.missing.contains(from)) else {
            return false;
        };
        query.missing.remove(from);
        add(&mut query.found);
        query.is_over()
    }

    /// Adds the answer of another server, or a part of it; returns whether none is missing any
    /// more.
    #[cfg(feature = "redis")]
    pub(crate) fn add_node(
        &self,
        number: u64,
        node: u64,
        is_last: bool,
        add: impl FnOnce(&mut F),
    ) -> bool {
        let mut open = self.open.borrow_mut();
        let Some(query) = open.get_mut(&number) else { return false };
        let Some(at) = query.missing_nodes.iter().position(|&each| each == node) else {
            return false;
        };
        if is_last {
            query.missing_nodes.swap_remove(at);
        }
        add(&mut query.found);
        query.is_over()
    }

    /// Takes all questions.
    pub(crate) fn take_all(&self) -> Vec<Query<C, F>> {
        self.open.take().into_values().collect()
    }
}
