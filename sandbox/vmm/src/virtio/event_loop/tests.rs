use std::{
    os::fd::{AsRawFd, BorrowedFd},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use super::*;
use crate::{
    rate_limiter::Limits,
    virtio::{
        Device, DeviceError, DeviceState, RestoreError, Rings, Rng, Work,
        doorbells::IDLE_RINGS,
        driver::{BUFFERS, Driver, Unwired},
        rng::RngState,
    },
};

fn rng() -> Rng {
    Rng::new(Limits::default()).unwrap()
}

/// The driver's transport, for the thread; the driver keeps one that nobody uses.
fn shared(driver: &mut Driver) -> Arc<Mutex<Transport>> {
    let transport = Transport::new(driver.memory.clone(), Box::new(rng())).unwrap();
    Arc::new(Mutex::new(std::mem::replace(&mut driver.transport, transport)))
}

/// Its first doorbell, and its interrupt, whose reader waits.
fn events(transport: &Mutex<Transport>) -> (EventFd, EventFd) {
    let transport = transport.lock().unwrap();
    // SAFETY: the eventfd is open for as long as the transport lives.
    let descriptor = unsafe { BorrowedFd::borrow_raw(transport.interrupt().as_raw_fd()) };
    rustix::io::ioctl_fionbio(descriptor, false).unwrap();
    (transport.doorbells()[0].try_clone().unwrap(), transport.interrupt().try_clone().unwrap())
}

#[test]
fn the_thread_serves_doorbells_pauses_resumes_and_stops() {
    let mut driver = Driver::started(rng());
    let (started, hook) = mpsc::channel();
    let transport = shared(&mut driver);
    let devices = EventLoop::start(
        vec![Arc::clone(&transport)],
        Unwired::boxed(),
        move || started.send(()).is_ok(),
        |text| panic!("{text}"),
    );
    let devices = devices.unwrap();
    hook.recv().unwrap();
    let (doorbell, interrupt) = {
        let transport = transport.lock().unwrap();
        let blocking = transport.interrupt().try_clone().unwrap();
        // SAFETY: the eventfd is open for as long as the transport lives.
        let descriptor = unsafe { BorrowedFd::borrow_raw(transport.interrupt().as_raw_fd()) };
        rustix::io::ioctl_fionbio(descriptor, false).unwrap();
        (transport.doorbells()[0].try_clone().unwrap(), blocking)
    };
    for round in 0..100 {
        let paused = round % 10 == 0;
        if paused {
            devices.pause();
        }
        driver.add(0, &[(BUFFERS, 32, true)]);
        doorbell.write(1).unwrap();
        if paused {
            assert_eq!(driver.used(0), []);
            devices.resume();
        }
        interrupt.read().unwrap();
        assert_eq!(driver.used(0), [(round % 8, 32)]);
    }
    devices.stop();
    assert_eq!(Arc::strong_count(&transport), 1, "the thread has gone");
    assert_eq!(transport.lock().unwrap().device().id(), 4);
}

/// It serves every buffer, counts how often it is asked, and panics if its descriptor is ever ready.
#[derive(Debug)]
struct Probe {
    asked: Arc<AtomicU64>,
    trap: EventFd,
    rng: Rng,
}

impl Device for Probe {
    fn id(&self) -> u32 {
        self.rng.id()
    }

    fn queue_sizes(&self) -> &'static [u16] {
        self.rng.queue_sizes()
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        // SAFETY: the eventfd lives as long as the device.
        vec![unsafe { BorrowedFd::borrow_raw(self.trap.as_raw_fd()) }]
    }

    fn ready(&mut self, _source: usize, _events: EventSet) {
        panic!("the trap has gone off");
    }

    fn process(&mut self, rings: &mut Rings<'_>) -> Result<Work, DeviceError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.rng.process(rings)
    }

    fn reset(&mut self) {}

    fn save(&self) -> DeviceState {
        DeviceState::Rng(RngState {})
    }

    fn restore(&mut self, _state: &DeviceState) -> Result<(), RestoreError> {
        Ok(())
    }
}

fn probe() -> (Driver, Arc<AtomicU64>, EventFd) {
    let (asked, trap) = (Arc::new(AtomicU64::new(0)), EventFd::new(EFD_NONBLOCK).unwrap());
    let device = Probe { asked: Arc::clone(&asked), trap: trap.try_clone().unwrap(), rng: rng() };
    (Driver::started(device), asked, trap)
}

#[test]
fn rings_for_nothing_are_heard_now_and_then_and_one_for_something_soon() {
    let (mut driver, asked, _trap) = probe();
    let transport = shared(&mut driver);
    let devices =
        EventLoop::start(vec![Arc::clone(&transport)], Unwired::boxed(), || true, |text| panic!("{text}"))
            .unwrap();
    let (doorbell, interrupt) = events(&transport);
    let started = Instant::now();
    let mut rung = 0u64;
    while started.elapsed() < Duration::from_millis(500) {
        doorbell.write(1).unwrap();
        rung += 1;
    }
    let heard = asked.load(Ordering::Relaxed);
    let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap();
    let allowed = IDLE_RINGS.burst.get() + IDLE_RINGS.per_second.get() * elapsed / 1000;
    println!("{rung} rings for nothing in {elapsed} ms, {heard} heard");
    assert!(heard <= allowed + 8, "{heard} of {rung} were heard, {allowed} are allowed");
    for round in 0..100u16 {
        driver.add(0, &[(BUFFERS, 32, true)]);
        doorbell.write(1).unwrap();
        interrupt.read().unwrap();
        assert_eq!(driver.used(0), [(round % 8, 32)]);
    }
    devices.stop();
}

#[test]
fn a_device_that_panics_ends_the_thread_which_tells_of_it() {
    let (mut driver, _, trap) = probe();
    let transport = shared(&mut driver);
    let (told, panicked) = mpsc::channel();
    let devices =
        EventLoop::start(vec![transport], Unwired::boxed(), || true, move |text| told.send(text).unwrap())
            .unwrap();
    trap.write(1).unwrap();
    assert_eq!(panicked.recv().unwrap(), "the trap has gone off");
    devices.pause();
    devices.stop();
}
