//! The edge from outside: real sockets, real signatures, a real control plane.

mod authentication;
mod dead_letters;
mod functions;
mod invoke;
mod limits;
mod shutdown;
mod support;
mod tls;
