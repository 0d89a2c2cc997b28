//! Every frame, its fields and their order. Kinds are stable: a new frame takes a new number.

use crate::codec::{DecodeError, Decoder, Reader, frame};

/// What the invoker tells the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvokerFrame {
    Start(Start),
    Invoke(Invoke),
    Shutdown,
}

/// How to start the runtime. The first frame of every stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// [`crate::VERSION`] of the invoker.
    pub version: u32,
    /// Program and arguments of the runtime, such as `/var/runtime/bootstrap`.
    pub command: Vec<String>,
    /// Working directory of the runtime.
    pub directory: String,
    /// The whole environment of the runtime, in order.
    pub variables: Vec<(String, String)>,
    /// User and group the runtime runs as; the agent itself runs as `agent_uid`.
    pub function_uid: u32,
    pub agent_uid: u32,
    /// Largest answer of the function, bytes; a larger one gets 413.
    pub response_limit: u32,
}

/// One event for the function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoke {
    pub request_id: String,
    /// Milliseconds since the Unix epoch.
    pub deadline_ms: u64,
    pub invoked_function_arn: String,
    pub xray_trace_id: String,
    /// The same trace in W3C form.
    pub traceparent: Option<String>,
    pub client_context: Option<String>,
    pub cognito_identity: Option<String>,
    pub tenant_id: Option<String>,
    pub payload: Vec<u8>,
}

/// What the agent tells the invoker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentFrame {
    /// The Runtime API listens and the runtime process has been started.
    Hello {
        version: u32,
    },
    /// The runtime asks for an event.
    Idle,
    /// Lines the function printed, as they came out of its pipe.
    Log {
        stream: LogStream,
        bytes: Vec<u8>,
    },
    /// The runtime answers; chunks and an end follow.
    ResponseHead {
        request_id: String,
        content_type: String,
        mode: ResponseMode,
    },
    ResponseChunk {
        bytes: Vec<u8>,
    },
    /// The answer is complete. A streamed answer may end in an error that its trailers describe.
    ResponseEnd {
        error_type: Option<String>,
        error_body: Option<String>,
    },
    /// The runtime reports that the function failed on this event.
    InvocationError {
        request_id: String,
        error_type: String,
        xray_cause: Option<String>,
        body: Vec<u8>,
    },
    /// The runtime reports that it could not get ready.
    InitError {
        error_type: String,
        body: Vec<u8>,
    },
    /// The answer was larger than allowed; the runtime was told 413.
    ResponseTooLarge {
        request_id: String,
        bytes: u64,
    },
    /// The runtime process is gone: exit code, or minus the signal that ended it.
    RuntimeExited {
        status: i32,
    },
    /// The runtime could not be started at all.
    StartFailed {
        reason: String,
    },
    /// What the environment has used so far. Only from an agent that is the init of a VM, where nobody outside can see it;
    /// before each `Idle` and before `RuntimeExited`.
    Usage(Usage),
}

/// See [`AgentFrame::Usage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Most memory in use at one time, bytes.
    pub memory_peak: u64,
    /// The kernel has ended a process because memory was used up.
    pub out_of_memory: bool,
}

/// Where the function printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// How the function answers (`Lambda-Runtime-Function-Response-Mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseMode {
    Buffered,
    Streaming,
}

/// Frame kinds, stable.
mod kind {
    pub(super) const START: u8 = 1;
    pub(super) const INVOKE: u8 = 2;
    pub(super) const SHUTDOWN: u8 = 3;
    pub(super) const HELLO: u8 = 64;
    pub(super) const IDLE: u8 = 65;
    pub(super) const LOG: u8 = 66;
    pub(super) const RESPONSE_HEAD: u8 = 67;
    pub(super) const RESPONSE_CHUNK: u8 = 68;
    pub(super) const RESPONSE_END: u8 = 69;
    pub(super) const INVOCATION_ERROR: u8 = 70;
    pub(super) const INIT_ERROR: u8 = 71;
    pub(super) const RESPONSE_TOO_LARGE: u8 = 72;
    pub(super) const RUNTIME_EXITED: u8 = 73;
    pub(super) const START_FAILED: u8 = 74;
    pub(super) const USAGE: u8 = 75;
}

/// Most arguments or variables in a `Start` (their bytes are bounded by the frame).
const MAX_ITEMS: u32 = 65_536;

// === impl InvokerFrame ===

impl InvokerFrame {
    /// Appends the frame's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Start(start) => start.encode(out),
            Self::Invoke(invoke) => invoke.encode(out),
            Self::Shutdown => frame(out, kind::SHUTDOWN, |_| {}),
        }
    }

    /// Takes the next whole frame from `decoder`, or `None` if more bytes are needed.
    pub fn decode(decoder: &mut Decoder) -> Result<Option<Self>, DecodeError> {
        decoder.next(|kind, body| match kind {
            kind::START => Start::decode(body).map(Self::Start),
            kind::INVOKE => Invoke::decode(body).map(Self::Invoke),
            kind::SHUTDOWN => body.finish(Self::Shutdown),
            unknown => Err(DecodeError::Kind(unknown)),
        })
    }
}

impl Start {
    fn encode(&self, out: &mut Vec<u8>) {
        frame(out, kind::START, |w| {
            w.u32(self.version);
            w.u32(u32::try_from(self.command.len()).unwrap_or(u32::MAX));
            for argument in &self.command {
                w.bytes(argument.as_bytes());
            }
            w.bytes(self.directory.as_bytes());
            w.u32(u32::try_from(self.variables.len()).unwrap_or(u32::MAX));
            for (name, value) in &self.variables {
                w.bytes(name.as_bytes());
                w.bytes(value.as_bytes());
            }
            w.u32(self.function_uid);
            w.u32(self.agent_uid);
            w.u32(self.response_limit);
        });
    }

    fn decode(mut r: Reader<'_>) -> Result<Self, DecodeError> {
        let version = r.u32()?;
        let command = (0..count(&mut r)?).map(|_| r.text()).collect::<Result<_, _>>()?;
        let directory = r.text()?;
        let variables =
            (0..count(&mut r)?).map(|_| Ok((r.text()?, r.text()?))).collect::<Result<_, DecodeError>>()?;
        let (function_uid, agent_uid, response_limit) = (r.u32()?, r.u32()?, r.u32()?);
        r.finish(Self { version, command, directory, variables, function_uid, agent_uid, response_limit })
    }
}

fn count(r: &mut Reader<'_>) -> Result<u32, DecodeError> {
    let items = r.u32()?;
    if items > MAX_ITEMS { Err(DecodeError::Value("number of items")) } else { Ok(items) }
}

impl Invoke {
    fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.payload.len() + 1024);
        frame(out, kind::INVOKE, |w| {
            w.bytes(self.request_id.as_bytes());
            w.u64(self.deadline_ms);
            w.bytes(self.invoked_function_arn.as_bytes());
            w.bytes(self.xray_trace_id.as_bytes());
            w.optional(self.traceparent.as_deref());
            w.optional(self.client_context.as_deref());
            w.optional(self.cognito_identity.as_deref());
            w.optional(self.tenant_id.as_deref());
            w.bytes(&self.payload);
        });
    }

    fn decode(mut r: Reader<'_>) -> Result<Self, DecodeError> {
        let invoke = Self {
            request_id: r.text()?,
            deadline_ms: r.u64()?,
            invoked_function_arn: r.text()?,
            xray_trace_id: r.text()?,
            traceparent: r.optional()?,
            client_context: r.optional()?,
            cognito_identity: r.optional()?,
            tenant_id: r.optional()?,
            payload: r.bytes()?.to_vec(),
        };
        r.finish(invoke)
    }
}

// === impl AgentFrame ===

impl AgentFrame {
    /// Appends the frame's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { version } => frame(out, kind::HELLO, |w| w.u32(*version)),
            Self::Idle => frame(out, kind::IDLE, |_| {}),
            Self::Log { stream, bytes } => frame(out, kind::LOG, |w| {
                w.u8(match stream {
                    LogStream::Stdout => 1,
                    LogStream::Stderr => 2,
                });
                w.bytes(bytes);
            }),
            Self::ResponseHead { request_id, content_type, mode } => frame(out, kind::RESPONSE_HEAD, |w| {
                w.bytes(request_id.as_bytes());
                w.bytes(content_type.as_bytes());
                w.u8(match mode {
                    ResponseMode::Buffered => 1,
                    ResponseMode::Streaming => 2,
                });
            }),
            Self::ResponseChunk { bytes } => frame(out, kind::RESPONSE_CHUNK, |w| w.bytes(bytes)),
            Self::ResponseEnd { error_type, error_body } => frame(out, kind::RESPONSE_END, |w| {
                w.optional(error_type.as_deref());
                w.optional(error_body.as_deref());
            }),
            Self::InvocationError { request_id, error_type, xray_cause, body } => {
                frame(out, kind::INVOCATION_ERROR, |w| {
                    w.bytes(request_id.as_bytes());
                    w.bytes(error_type.as_bytes());
                    w.optional(xray_cause.as_deref());
                    w.bytes(body);
                });
            }
            Self::InitError { error_type, body } => frame(out, kind::INIT_ERROR, |w| {
                w.bytes(error_type.as_bytes());
                w.bytes(body);
            }),
            Self::ResponseTooLarge { request_id, bytes } => frame(out, kind::RESPONSE_TOO_LARGE, |w| {
                w.bytes(request_id.as_bytes());
                w.u64(*bytes);
            }),
            Self::RuntimeExited { status } => {
                frame(out, kind::RUNTIME_EXITED, |w| {
                    w.u32(u32::from_le_bytes(status.to_le_bytes()));
                });
            }
            Self::StartFailed { reason } => frame(out, kind::START_FAILED, |w| w.bytes(reason.as_bytes())),
            Self::Usage(usage) => frame(out, kind::USAGE, |w| {
                w.u64(usage.memory_peak);
                w.u8(u8::from(usage.out_of_memory));
            }),
        }
    }

    /// Takes the next whole frame from `decoder`, or `None` if more bytes are needed.
    pub fn decode(decoder: &mut Decoder) -> Result<Option<Self>, DecodeError> {
        decoder.next(|kind, mut r| {
            let frame = match kind {
                kind::HELLO => Self::Hello { version: r.u32()? },
                kind::IDLE => Self::Idle,
                kind::LOG => Self::Log { stream: log_stream(r.u8()?)?, bytes: r.bytes()?.to_vec() },
                kind::RESPONSE_HEAD => Self::ResponseHead {
                    request_id: r.text()?,
                    content_type: r.text()?,
                    mode: response_mode(r.u8()?)?,
                },
                kind::RESPONSE_CHUNK => Self::ResponseChunk { bytes: r.bytes()?.to_vec() },
                kind::RESPONSE_END => {
                    Self::ResponseEnd { error_type: r.optional()?, error_body: r.optional()? }
                }
                kind::INVOCATION_ERROR => Self::InvocationError {
                    request_id: r.text()?,
                    error_type: r.text()?,
                    xray_cause: r.optional()?,
                    body: r.bytes()?.to_vec(),
                },
                kind::INIT_ERROR => Self::InitError { error_type: r.text()?, body: r.bytes()?.to_vec() },
                kind::RESPONSE_TOO_LARGE => Self::ResponseTooLarge { request_id: r.text()?, bytes: r.u64()? },
                kind::RUNTIME_EXITED => Self::RuntimeExited { status: r.i32()? },
                kind::START_FAILED => Self::StartFailed { reason: r.text()? },
                kind::USAGE => Self::Usage(Usage {
                    memory_peak: r.u64()?,
                    out_of_memory: match r.u8()? {
                        0 => false,
                        1 => true,
                        _ => return Err(DecodeError::Value("out of memory")),
                    },
                }),
                unknown => return Err(DecodeError::Kind(unknown)),
            };
            r.finish(frame)
        })
    }
}

fn log_stream(byte: u8) -> Result<LogStream, DecodeError> {
    match byte {
        1 => Ok(LogStream::Stdout),
        2 => Ok(LogStream::Stderr),
        _ => Err(DecodeError::Value("log stream")),
    }
}

fn response_mode(byte: u8) -> Result<ResponseMode, DecodeError> {
    match byte {
        1 => Ok(ResponseMode::Buffered),
        2 => Ok(ResponseMode::Streaming),
        _ => Err(DecodeError::Value("response mode")),
    }
}
