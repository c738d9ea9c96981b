//! Commands end to end: the real server, simulated agents of both generations, a user of the API; and at the end of each
//! test the rows held against what the hosts really got and did.

mod batches;
mod cancels;
mod crowd;
mod events;
mod odd_agents;
mod reports;
mod scans;
pub mod scene;
mod settings;
mod times;
