mod crash;
mod fixture;
mod life;
mod refusals;
mod secrets;
