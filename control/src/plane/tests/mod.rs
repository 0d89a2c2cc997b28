mod crash;
mod event_invoke;
mod fixture;
mod life;
mod refusals;
mod secrets;
