//! What may happen between any two steps of a command, each by its name: store, bus, gateway and worker in this process,
//! so that a test can stand between them; the agents are simulated ones, or played by hand on the bus.

mod deeds;
mod gateways;
mod holders;
mod house;
mod outages;
mod presence;
mod stops;
