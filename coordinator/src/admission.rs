//! Whose turn it is: a bounded number of statements that build run at a time, in the order in which they came, and
//! never two of one object.
//!
//! ```text
//!   ticket 3  corpus a   runs        a slot of `builds_max`
//!   ticket 5  corpus b   runs        a slot
//!   ticket 6  corpus a   waits       for ticket 3: later tickets of other objects may pass it
//!   ticket 7  corpus c   waits       for a slot: nobody who comes later gets it first
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedMutexGuard, watch};

/// Statements that build, and those that wait to.
#[derive(Debug)]
pub(crate) struct Admission {
    builds_max: usize,
    state: Mutex<State>,
    /// Counts changes of `state`.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    running: BTreeMap<u64, String>,
    waiting: BTreeMap<u64, String>,
    /// Views that are looked at or built, inside of the turns.
    views: HashMap<String, Weak<tokio::sync::Mutex<()>>>,
}

impl State {
    /// Why `ticket` has to wait, if it has to.
    fn reason(&self, ticket: u64, builds_max: usize) -> Option<String> {
        let object = &self.waiting[&ticket];
        if self.running.values().any(|running| running == object) {
            return Some(format!("waiting: {object} is being built by another script"));
        }
        let earlier = || self.waiting.range(..ticket).map(|(_, object)| object);
        if earlier().any(|before| before == object) {
            return Some(format!("waiting: another script waits to build {object}"));
        }
        // Those who wait for another build of their own object keep no slot free.
        let ahead = earlier().filter(|before| !self.running.values().any(|running| running == *before));
        let free = builds_max.saturating_sub(self.running.len());
        let ahead: Vec<&String> = ahead.collect();
        if ahead.len() < free {
            return None;
        }
        let before = ahead.len() + self.running.len();
        let names: Vec<&str> = self.running.values().chain(ahead).map(String::as_str).collect();
        let plural = if before == 1 { "" } else { "s" };
        Some(format!(
            "waiting: {before} build{plural} before yours ({}), and {builds_max} may run at a time",
            names.join(", ")
        ))
    }
}

/// A place in the line and then a turn to build; given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    admission: Arc<Admission>,
    ticket: u64,
    changes: watch::Receiver<u64>,
}

impl Turn {
    /// Why it has to wait; `None` when its turn has come.
    pub(crate) fn reason(&mut self) -> Option<String> {
        self.changes.borrow_and_update();
        let mut state = self.admission.state();
        if state.running.contains_key(&self.ticket) {
            return None;
        }
        let reason = state.reason(self.ticket, self.admission.builds_max);
        if reason.is_none()
            && let Some(object) = state.waiting.remove(&self.ticket)
        {
            state.running.insert(self.ticket, object);
            drop(state);
            // Those behind it wait for something else now.
            self.admission.changes.send_modify(|n| *n += 1);
        }
        reason
    }

    /// Waits until the reason may be another one.
    pub(crate) async fn changed(&mut self) {
        // The sender lives as long as the admission.
        let _ = self.changes.changed().await;
    }
}

/// An object that nobody builds meanwhile.
#[derive(Debug)]
pub(crate) struct SetAside {
    _turn: Turn,
    _view: OwnedMutexGuard<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        state.running.remove(&self.ticket);
        state.waiting.remove(&self.ticket);
        drop(state);
        self.admission.changes.send_modify(|n| *n += 1);
    }
}

impl Admission {
    /// At most `builds_max` at a time, at least one.
    pub(crate) fn new(builds_max: usize) -> Self {
        Self {
            builds_max: builds_max.max(1),
            state: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Statements that run, and that wait.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.running.len(), state.waiting.len())
    }

    /// Waits until nobody else brings the view `name` up to date. One script holds one view at a time.
    pub(crate) async fn alone(&self, name: &str) -> OwnedMutexGuard<()> {
        let view = {
            let mut state = self.state();
            state.views.retain(|_, view| view.strong_count() > 0);
            let known = state.views.get(name).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let view = Arc::default();
                state.views.insert(name.to_owned(), Arc::downgrade(&view));
                view
            })
        };
        view.lock_owned().await
    }

    /// Keeps others from building `object` until this is dropped; `None` when somebody does, or waits to.
    pub(crate) fn set_aside(self: &Arc<Self>, object: &str) -> Option<SetAside> {
        let mut state = self.state();
        let view = state.views.get(object).and_then(Weak::upgrade);
        let view = match view.unwrap_or_default().try_lock_owned() {
            Ok(view) => view,
            Err(_) => return None,
        };
        if state
            .running
            .values()
            .chain(state.waiting.values())
            .any(|busy| busy == object)
        {
            return None;
        }
        let shared = OwnedMutexGuard::mutex(&view);
        state.views.insert(object.to_owned(), Arc::downgrade(shared));
        let turn = self.ticket(&mut state);
        state.running.insert(turn.ticket, object.to_owned());
        Some(SetAside {
            _turn: turn,
            _view: view,
        })
    }

    /// Takes a place in the line of those who build `object`.
    pub(crate) fn enter(self: &Arc<Self>, object: &str) -> Turn {
        let mut state = self.state();
        let turn = self.ticket(&mut state);
        state.waiting.insert(turn.ticket, object.to_owned());
        turn
    }

    fn ticket(self: &Arc<Self>, state: &mut State) -> Turn {
        let ticket = state.next;
        state.next += 1;
        Turn {
            admission: Arc::clone(self),
            ticket,
            changes: self.changes.subscribe(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn in_order_and_never_two_of_one_object() {
        let admission = Arc::new(Admission::new(2));
        let [mut a, mut b, mut c, mut again, mut d] = ["a", "b", "c", "a", "d"].map(|object| admission.enter(object));
        assert_eq!((a.reason(), b.reason()), (None, None));
        let said = |turn: &mut Turn| turn.reason().unwrap();
        assert_eq!(
            said(&mut c),
            "waiting: 2 builds before yours (a, b), and 2 may run at a time"
        );
        assert_eq!(said(&mut again), "waiting: a is being built by another script");
        // The second of `a` waits for its own kind and keeps nobody from the next slot.
        assert_eq!(
            said(&mut d),
            "waiting: 3 builds before yours (a, b, c), and 2 may run at a time"
        );
        assert_eq!(admission.counts(), (2, 3));
        drop(b);
        c.changed().await;
        // Whoever came first is first, however often the others ask.
        assert_eq!(
            said(&mut d),
            "waiting: 2 builds before yours (a, c), and 2 may run at a time"
        );
        assert_eq!((c.reason(), c.reason()), (None, None));
        drop(c);
        assert_eq!(d.reason(), None);
        drop((a, d));
        assert_eq!(again.reason(), None);
        drop(again);
        assert_eq!(admission.counts(), (0, 0));
    }

    #[tokio::test]
    async fn whoever_stops_waiting_gives_its_place_up() {
        let admission = Arc::new(Admission::new(1));
        let [mut a, mut b, mut c] = ["a", "b", "c"].map(|object| admission.enter(object));
        assert!(a.reason().is_none() && b.reason().is_some());
        assert!(c.reason().unwrap().contains("2 builds before yours"));
        let waiting = tokio::spawn(async move {
            c.changed().await;
            c.reason()
        });
        drop(b);
        assert!(waiting.await.unwrap().unwrap().contains("1 build before yours (a)"));
        drop(a);
        assert_eq!(admission.counts(), (0, 0));
    }

    #[tokio::test]
    async fn what_is_set_aside_is_not_built_and_what_is_built_not_set_aside() {
        let admission = Arc::new(Admission::new(1));
        let mut a = admission.enter("a");
        assert!(admission.set_aside("a").is_none(), "it waits for its turn");
        assert!(a.reason().is_none() && admission.set_aside("a").is_none());
        let view = admission.alone("v").await;
        assert!(admission.set_aside("v").is_none());
        drop((a, view));
        let held = [admission.set_aside("a").unwrap(), admission.set_aside("v").unwrap()];
        let mut a = admission.enter("a");
        assert!(a.reason().unwrap().contains("a is being built"));
        assert!(futures::poll!(std::pin::pin!(admission.alone("v"))).is_pending());
        drop(held);
        assert!(a.reason().is_none());
        let _view = admission.alone("v").await;
    }

    #[tokio::test]
    async fn one_script_looks_at_a_view() {
        let admission = Admission::new(1);
        let held = admission.alone("v").await;
        let _other = admission.alone("w").await;
        assert!(futures::poll!(std::pin::pin!(admission.alone("v"))).is_pending());
        drop(held);
        let _next = admission.alone("v").await;
    }
}
