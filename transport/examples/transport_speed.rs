//! What a byte costs on its way: CPU time per gigabyte and latency per batch, as ratios within one run.
//!
//! ```text
//! cargo run --release -p corpusmill-transport --example transport_speed [-- GIGABYTES [SIZE…]]
//! ```
//! Two processes a measurement, a worker that copies a prepared batch into its slot and a trainer that reads a byte of
//! every page of what it got; CPU time is that of both, from `getrusage`. `memcpy` does the worker's copy and the
//! trainer's look in one process, `raw tcp` sends and receives with blocking sockets and one buffer on each side: what
//! shm and tcp cannot beat. Lines with `xxh3` hash as the transport does by default, or whole bodies.

#![expect(clippy::print_stdout, reason = "a table is what it makes")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corpusmill_transport::{Checksum, Choice, Kind, PullOptions, Puller, ServeOptions, Server, Token};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const SLOTS: u32 = 4;
const PAGE_BYTES: usize = 4096;
const TOKEN: [u8; 32] = [7; 32];

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [side, rest @ ..] = &arguments[..]
        && side == "--trainer"
    {
        return trainer(rest);
    }
    let gigabytes: f64 = arguments.first().map_or(Ok(2.0), |text| text.parse())?;
    let sizes: Vec<usize> = match arguments.get(1..) {
        Some(sizes) if !sizes.is_empty() => sizes.iter().map(|size| size.parse()).collect::<Result<_, _>>()?,
        _ => vec![1 << 20, 4 << 20, 16 << 20],
    };
    println!(
        "{gigabytes} GB a line, {} cores; CPU of both sides",
        std::thread::available_parallelism()?
    );
    println!(
        "{:>8}  {:<22}{:>12}{:>10}{:>14}{:>10}",
        "batch", "way", "CPU ms/GB", "ratio", "ms a batch", "GB/s"
    );
    for size in sizes {
        measure_size(size, (gigabytes * 1e9 / size as f64).ceil() as u64)?;
    }
    Ok(())
}

/// One measurement.
struct Cost {
    cpu: Duration,
    wall: Duration,
    bytes: u64,
    /// Mean time between the worker's start of a batch and the trainer's look at it, one batch at a time.
    latency: Duration,
}

fn measure_size(size: usize, count: u64) -> Outcome<()> {
    let memcpy = copy_in_process(size, count);
    let raw = raw_tcp(size, count)?;
    let (copy_ms, raw_ms) = (per_gigabyte(&memcpy), per_gigabyte(&raw));
    print(size, "memcpy", &memcpy, copy_ms, "memcpy");
    let shm = [
        ("shm", Checksum::None),
        ("shm, xxh3 sampled", Checksum::Sampled),
        ("shm, xxh3 full", Checksum::Full),
    ];
    for (name, checksum) in shm {
        print(
            size,
            name,
            &session(Kind::Shm, checksum, size, count)?,
            copy_ms,
            "memcpy",
        );
    }
    print(size, "raw tcp", &raw, raw_ms, "raw");
    for (name, checksum) in [("tcp", Checksum::None), ("tcp, xxh3 full", Checksum::Full)] {
        print(size, name, &session(Kind::Tcp, checksum, size, count)?, raw_ms, "raw");
    }
    Ok(())
}

fn per_gigabyte(cost: &Cost) -> f64 {
    cost.cpu.as_secs_f64() * 1e3 / (cost.bytes as f64 / 1e9)
}

fn print(size: usize, name: &str, cost: &Cost, base: f64, base_name: &str) {
    let cpu = per_gigabyte(cost);
    let speed = cost.bytes as f64 / 1e9 / cost.wall.as_secs_f64();
    let (latency, megabytes) = (cost.latency.as_secs_f64() * 1e3, size >> 20);
    println!(
        "{megabytes:>5} MB  {name:<22}{cpu:>12.0}{:>6.2} {base_name:<7}{latency:>10.2}{speed:>10.2}",
        cpu / base
    );
}

/// A look at a batch: a byte of every page, as little as a reader can do.
fn look(body: &[u8]) -> u64 {
    body.iter().step_by(PAGE_BYTES).map(|byte| u64::from(*byte)).sum()
}

fn batch(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index % 251) as u8).collect()
}

/// CPU time of this process, or of its children that were waited for.
#[expect(unsafe_code, reason = "getrusage has no safe form in the standard library")]
fn cpu_time(who: i32) -> Duration {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is the system's.
    unsafe { libc::getrusage(who, &raw mut usage) };
    let of = |time: libc::timeval| Duration::from_micros(time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64);
    of(usage.ru_utime) + of(usage.ru_stime)
}

fn copy_in_process(size: usize, count: u64) -> Cost {
    let source = batch(size);
    // as many slots as a session has, so that the caches see the same
    let mut slots = vec![vec![1u8; size]; SLOTS as usize];
    let (cpu, wall) = (cpu_time(libc::RUSAGE_SELF), Instant::now());
    let mut seen = 0u64;
    for index in 0..count {
        let slot = &mut slots[(index % u64::from(SLOTS)) as usize];
        slot.copy_from_slice(&source);
        seen = seen.wrapping_add(look(std::hint::black_box(slot)));
    }
    std::hint::black_box(seen);
    let (cpu, wall) = (cpu_time(libc::RUSAGE_SELF) - cpu, wall.elapsed());
    Cost {
        cpu,
        wall,
        bytes: size as u64 * count,
        latency: wall / u32::try_from(count).unwrap_or(u32::MAX),
    }
}

/// Batches for the latency: one at a time.
fn alone(count: u64) -> u64 {
    count.min(100)
}

fn raw_tcp(size: usize, count: u64) -> Outcome<Cost> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let (rounds, total) = (alone(count), count);
    let arguments = [
        "raw",
        &address,
        &size.to_string(),
        &total.to_string(),
        &rounds.to_string(),
    ];
    let (source, mut slot) = (batch(size), vec![1u8; size]);
    measure(&arguments, size, total, rounds, move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut go = [0u8; 1];
        let mut times = Vec::new();
        for index in 0..rounds + total {
            if index <= rounds {
                stream.read_exact(&mut go)?;
                times.push(Instant::now());
            }
            slot.copy_from_slice(&source);
            stream.write_all(&slot)?;
        }
        stream.read_exact(&mut go)?;
        Ok(times)
    })
}

/// Runs the trainer as a child and the worker here. `work` gives the starts of the batches sent one at a time, and as
/// last the start of the rest.
fn measure(
    arguments: &[&str],
    size: usize,
    total: u64,
    rounds: u64,
    work: impl FnOnce() -> Outcome<Vec<Instant>>,
) -> Outcome<Cost> {
    let program = std::env::current_exe()?;
    let mut child = Command::new(program)
        .arg("--trainer")
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()?;
    let (own, children) = (cpu_time(libc::RUSAGE_SELF), cpu_time(libc::RUSAGE_CHILDREN));
    let times = work()?;
    let over = Instant::now();
    if !child.wait()?.success() {
        return Err("the trainer failed".into());
    }
    let cpu = cpu_time(libc::RUSAGE_SELF) - own + cpu_time(libc::RUSAGE_CHILDREN) - children;
    let (Some(first), Some(rest)) = (times.first(), times.last()) else {
        return Err("nothing was measured".into());
    };
    let latency = (*rest - *first) / u32::try_from(rounds)?;
    Ok(Cost {
        cpu,
        wall: over - *rest,
        bytes: size as u64 * (total + rounds),
        latency,
    }
    .scaled(total, rounds))
}

impl Cost {
    /// The wall time covers the batches that flow freely only: speed is theirs, CPU time that of all.
    fn scaled(self, total: u64, rounds: u64) -> Self {
        let wall = self.wall.mul_f64((total + rounds) as f64 / total as f64);
        Self { wall, ..self }
    }
}

fn session(kind: Kind, checksum: Checksum, size: usize, count: u64) -> Outcome<Cost> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let server = runtime.block_on(async {
        let mut options = ServeOptions::new("127.0.0.1:0".parse()?, Token::from_bytes(TOKEN));
        options.checksum = Some(checksum);
        Ok::<_, Box<dyn std::error::Error>>(Server::bind(options).await?)
    })?;
    let address = server.address().to_string();
    let (rounds, source) = (alone(count), batch(size));
    let arguments = [
        kind.name(),
        &address,
        &size.to_string(),
        &count.to_string(),
        &rounds.to_string(),
    ];
    measure(&arguments, size, count, rounds, || {
        runtime.block_on(async {
            let exporter = server.accept().await?;
            let mut times = Vec::new();
            for index in 0..rounds + count {
                if index <= rounds {
                    // the last batch is looked at when its slot is free again: all slots are
                    let mut all = Vec::new();
                    for _ in 0..exporter.slots() {
                        all.push(exporter.slot().await?);
                    }
                    times.push(Instant::now());
                }
                let mut slot = exporter.slot().await?;
                slot[..size].copy_from_slice(&source);
                exporter.publish(slot, size, Bytes::new()).await?;
            }
            exporter.finish(Duration::from_secs(60)).await?;
            Ok(times)
        })
    })
}

/// The trainer's process.
fn trainer(arguments: &[String]) -> Outcome<()> {
    let [way, address, size, total, rounds] = arguments else {
        return Err("five arguments".into());
    };
    let (size, total, rounds): (usize, u64, u64) = (size.parse()?, total.parse()?, rounds.parse()?);
    let address: SocketAddr = address.parse()?;
    let mut seen = 0u64;
    if way == "raw" {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut slot = vec![1u8; size];
        for index in 0..rounds + total {
            if index <= rounds {
                stream.write_all(b"g")?;
            }
            stream.read_exact(&mut slot)?;
            seen = seen.wrapping_add(look(&slot));
        }
        stream.write_all(b"g")?;
    } else {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut options = PullOptions::new(Token::from_bytes(TOKEN));
            options.choice = way.parse::<Choice>()?;
            (options.slots, options.own_slots, options.slot_bytes) = (SLOTS, SLOTS, size as u64);
            options.checksum_least = Some(Checksum::None);
            let puller = Puller::connect(address, options).await?;
            while let Some(descriptor) = puller.next().await? {
                let body = puller.pull(&descriptor).await?;
                seen = seen.wrapping_add(look(body.host().unwrap_or_default()));
            }
            puller.close().await;
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
    }
    std::hint::black_box(seen);
    Ok(())
}
