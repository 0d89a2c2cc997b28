//! Tries one way out of an environment and prints what came of it, in one line: `succeeded` or the name of an error.
//!
//! The attempt is named by the first argument, or, where the probe runs in the agent's place and has none, by a line on standard
//! input, or, in a monitor's place, by its document; then the answer goes to standard error.

#![allow(unsafe_code, reason = "tries system calls with deliberately wrong arguments")]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, Read, Write},
    net::TcpStream,
    os::{
        fd::{AsRawFd, FromRawFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    },
    process::Command,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_monitor = std::env::args().next().as_deref() == Some("monitor");
    if is_monitor {
        // SAFETY: where a monitor is expected, descriptor 3 is its document, and nobody else's.
        let mut document = unsafe { File::from_raw_fd(3) };
        let mut line = String::new();
        document.read_to_string(&mut line).expect("read the document");
        let words: Vec<&str> = line.split_whitespace().collect();
        eprintln!("{}", describe(attempt(&words)));
    } else if arguments.is_empty() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).expect("read the attempt's name");
        let words: Vec<&str> = line.split_whitespace().collect();
        eprintln!("{}", describe(attempt(&words)));
    } else {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if let Ok(address) = std::env::var("AWS_LAMBDA_RUNTIME_API") {
            wait_for_agent(&address).expect("the agent answers");
        }
        println!("{}", describe(attempt(&words)));
    }
}

/// Until the agent serves, it still has privileges; what holds then is not what is to be shown.
fn wait_for_agent(address: &str) -> io::Result<()> {
    let mut connection = TcpStream::connect(address)?;
    connection.write_all(b"GET /is-anybody-there HTTP/1.0\r\n\r\n")?;
    connection.read_to_end(&mut Vec::new()).map(drop)
}

fn describe(outcome: io::Result<()>) -> String {
    match outcome {
        Ok(()) => "succeeded".to_owned(),
        Err(error) => error.raw_os_error().map_or_else(|| error.to_string(), |code| name(code).to_owned()),
    }
}

/// Names of the errors that walls answer with.
fn name(code: i32) -> &'static str {
    let names = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EBADF, "EBADF"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::EACCES, "EACCES"),
        (libc::EFAULT, "EFAULT"),
        (libc::EINVAL, "EINVAL"),
        (libc::EMFILE, "EMFILE"),
        (libc::ENOTTY, "ENOTTY"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EROFS, "EROFS"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::ENETUNREACH, "ENETUNREACH"),
        (libc::EFBIG, "EFBIG"),
    ];
    names.iter().find(|(number, _)| *number == code).map_or("another error", |(_, name)| name)
}

fn attempt(words: &[&str]) -> io::Result<()> {
    match words {
        ["create", path] => File::create(path).map(drop),
        ["open-to-read", path] => File::open(path).map(drop),
        ["open-to-write", path] => OpenOptions::new().write(true).open(path).map(drop),
        ["show", path] => fs::read(path).and_then(|content| io::stdout().write_all(&content)),
        // Ended by whoever ends the agent.
        ["wait-for-end-of-agent"] => loop {
            std::thread::park();
        },
        ["greet-the-server-and-stay"] => {
            // SAFETY: where a monitor is expected, descriptor 5 is its stream, and nobody else's.
            let mut stream = unsafe { UnixStream::from_raw_fd(5) };
            stream.write_all(b"!")?;
            loop {
                std::thread::park();
            }
        }
        ["list", path] => fs::read_dir(path).map(drop),
        ["signal", pid] => call(libc::SYS_kill, &[number(pid), 0]),
        ["system-call", which, arguments @ ..] => {
            let arguments: Vec<usize> = arguments.iter().copied().map(number).collect();
            call(number(which) as libc::c_long, &arguments)
        }
        ["mount"] => mount(),
        ["make-root-writable"] => remount_root(),
        ["join-namespace"] => {
            let own = File::open("/proc/self/ns/net")?;
            call(libc::SYS_setns, &[own.as_raw_fd() as usize, 0])
        }
        ["connect-tcp", address] => TcpStream::connect(address).map(drop),
        ["connect-abstract", name] => {
            UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?).map(drop)
        }
        ["only-standard-descriptors"] => only_standard_descriptors(),
        // F_GETFD
        ["descriptor", which] => call(libc::SYS_fcntl, &[number(which), libc::F_GETFD as usize]),
        ["run-setuid", path] => run_setuid(path),
        ["effective-user-is-root"] => {
            // SAFETY: takes nothing and cannot fail.
            if unsafe { libc::geteuid() } == 0 {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::EPERM))
            }
        }
        ["wait-for-end"] => io::stdin().lock().read_line(&mut String::new()).map(drop),
        ["fork", times] => fork_bomb(number(times)),
        ["use-memory", mib] => use_memory(number(mib)),
        ["fill", directory, mib] => fill(directory, number(mib)),
        ["many-files", directory, count] => {
            (0..number(count)).try_for_each(|file| File::create(format!("{directory}/{file}")).map(drop))
        }
        ["many-descriptors", count] => {
            let opened: io::Result<Vec<File>> = (0..number(count)).map(|_| File::open("/dev/null")).collect();
            opened.map(drop)
        }
        ["raise-limit", resource, limit] => raise_limit(number(resource), number(limit)),
        _ => Err(io::Error::other(format!("no attempt is called {words:?}"))),
    }
}

fn number(text: &str) -> usize {
    let number = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| usize::from_str_radix(hex, 16));
    number.expect("a number")
}

/// Any system call. Arguments that are missing are 0, so pointers are null: the kernel answers, at worst, `EFAULT`.
fn call(which: libc::c_long, arguments: &[usize]) -> io::Result<()> {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: no call is made that changes memory of this process: pointers are null or to live constants.
    let result = unsafe {
        libc::syscall(which, argument(0), argument(1), argument(2), argument(3), argument(4), argument(5))
    };
    // A child of clone: it has done its part.
    if result == 0 && which == libc::SYS_clone {
        std::process::exit(0);
    }
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn mount() -> io::Result<()> {
    let (kind, target) = (c"tmpfs".as_ptr() as usize, c"/tmp".as_ptr() as usize);
    call(libc::SYS_mount, &[kind, target, kind, 0, 0])
}

fn remount_root() -> io::Result<()> {
    let root = c"/".as_ptr() as usize;
    call(libc::SYS_mount, &[0, root, 0, (libc::MS_REMOUNT | libc::MS_BIND) as usize, 0])
}

/// Fails, in the attempt's sense, if there are no other descriptors.
fn only_standard_descriptors() -> io::Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        found.push(entry?.file_name().to_string_lossy().parse::<usize>().unwrap_or(usize::MAX));
    }
    // The fourth is the directory being read.
    if found.iter().all(|descriptor| *descriptor <= 3) {
        Err(io::Error::from_raw_os_error(libc::EBADF))
    } else {
        Ok(())
    }
}

fn run_setuid(path: &str) -> io::Result<()> {
    let output = Command::new(path).env_clear().arg("effective-user-is-root").output()?;
    match output.stdout.trim_ascii() {
        b"succeeded" => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

fn fork_bomb(times: usize) -> io::Result<()> {
    let mut children = Vec::new();
    let mut outcome = Ok(());
    for _ in 0..times {
        match Command::new("/proc/self/exe")
            .env_clear()
            .arg("wait-for-end")
            .stdin(std::process::Stdio::piped())
            .spawn()
        {
            Ok(child) => children.push(child),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    for child in &mut children {
        child.kill()?;
        child.wait()?;
    }
    outcome
}

fn use_memory(mib: usize) -> io::Result<()> {
    let mut held = Vec::new();
    for _ in 0..mib {
        // Not zeroes: those would need no pages.
        held.push(vec![1u8; 1024 * 1024]);
    }
    io::stdout().flush()?;
    std::hint::black_box(&held);
    Ok(())
}

fn fill(directory: &str, mib: usize) -> io::Result<()> {
    let path = format!("{directory}/filler");
    let mut file = File::create(&path)?;
    let outcome = (0..mib).try_for_each(|_| file.write_all(&vec![1u8; 1024 * 1024]));
    fs::remove_file(&path)?;
    outcome
}

fn raise_limit(resource: usize, limit: usize) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: limit as libc::rlim_t, rlim_max: limit as libc::rlim_t };
    let limit: *const libc::rlimit = &limit;
    call(libc::SYS_setrlimit, &[resource, limit as usize])
}
