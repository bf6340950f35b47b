//! Waiting with an end: for a time at most, or for a signal that wakes everybody.
//!
//! Single-threaded, as Workers are. A signal that is raised while nobody waits is remembered by
//! the waits that were begun before it, so a wait is begun first and the condition looked at then.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::pin_mut;
use worker::Delay;

/// The time was over first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// What `future` answers, unless it takes longer than `time`; then it is dropped.
pub(crate) async fn within<T>(
    time: Duration,
    future: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    let delay = Delay::from(time);
    pin_mut!(future);
    pin_mut!(delay);
    match select(future, delay).await {
        Either::Left((value, _)) => Ok(value),
        Either::Right(_) => Err(Elapsed),
    }
}

/// Wakes all that wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signal(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    raised: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

/// A wait for a [`Signal`].
#[derive(Debug)]
pub(crate) struct Wait {
    signal: Rc<Inner>,
    raised: u64,
    /// Who is woken; a poll by the same task need not be noted again.
    waker: Option<Waker>,
}

impl Signal {
    /// Ends all waits that were begun before.
    pub(crate) fn raise(&self) {
        self.0.raised.set(self.0.raised.get() + 1);
        // Taken out first: a waker may run code that waits again.
        let waiting = std::mem::take(&mut *self.0.waiting.borrow_mut());
        for waker in waiting {
            waker.wake();
        }
    }

    /// Begins a wait; it ends with the next [`Signal::raise`].
    pub(crate) fn wait(&self) -> Wait {
        Wait {
            signal: Rc::clone(&self.0),
            raised: self.0.raised.get(),
            waker: None,
        }
    }
}

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.signal.raised.get() != self.raised {
            return Poll::Ready(());
        }
        let waker = context.waker();
        if !self
            .waker
            .as_ref()
            .is_some_and(|noted| noted.will_wake(waker))
        {
            self.signal.waiting.borrow_mut().push(waker.clone());
            self.waker = Some(waker.clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_signal_wakes_all_once_and_none_that_came_later() {
        let count = Arc::new(Count(AtomicU32::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let signal = Signal::default();

        let mut first = signal.wait();
        let mut second = signal.wait();
        assert!(Pin::new(&mut first).poll(&mut context).is_pending());
        assert!(Pin::new(&mut first).poll(&mut context).is_pending());
        signal.raise();
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "one task, one wake");
        assert!(Pin::new(&mut first).poll(&mut context).is_ready());
        // Begun before the signal and not asked yet: it is not missed.
        assert!(Pin::new(&mut second).poll(&mut context).is_ready());

        let mut later = signal.wait();
        assert!(Pin::new(&mut later).poll(&mut context).is_pending());
    }
}
