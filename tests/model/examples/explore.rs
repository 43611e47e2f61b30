//! wip
#![allow(clippy::print_stdout)]
use recado_model::bounds::*;
use recado_model::protocol::Protocol;
use recado_model::rules::Rules;
use recado_model::search::*;
use recado_model::state::*;
fn main() {
    let a = Some(Kind::App);
    let l = Some(Kind::Listener);
    let b = Bounds::NOTHING;
    let worlds = [
        ("a1", Bounds { workers: 2, slots: [l, None, None], ends: 7, budget: Budget { crashes: 1, refusals: 1, expiries: 1, ..NO_BUDGET }, ..b }),
        ("a2", Bounds { notes: 2, workers: 2, slots: [l, None, None], ends: 7, budget: Budget { crashes: 1, refusals: 1, expiries: 1, ..NO_BUDGET }, ..b }),
        ("a3", Bounds { workers: 2, slots: [l, None, None], ends: 7, budget: Budget { crashes: 1, late_writes: 1, refusals: 1, expiries: 1, ..NO_BUDGET }, ..b }),
        ("a4", Bounds { workers: 2, slots: [l, l, None], ends: 7, budget: Budget { crashes: 1, drops: 1, late_writes: 1, ..NO_BUDGET }, ..b }),
        ("b1", Bounds { workers: 2, slots: [a, l, None], budget: Budget { refusals: 1, ..NO_BUDGET }, ..b }),
        ("b2", Bounds { workers: 2, slots: [a, l, None], budget: Budget { refusals: 1, crashes: 1, ..NO_BUDGET }, ..b }),
        ("b3", Bounds { workers: 2, notes: 2, slots: [a, l, None], budget: Budget { refusals: 1, ..NO_BUDGET }, ..b }),
        ("b4", Bounds { workers: 1, notes: 2, slots: [a, l, None], budget: Budget { refusals: 1, ..NO_BUDGET }, ..b }),
        ("c1", Bounds { quick_sockets: true, notes: 1, slots: [a, a, None], ends: 8, budget: Budget { crashes: 1, drops: 1, late_writes: 1, ..NO_BUDGET }, ..b }),
        ("c2", Bounds { quick_sockets: true,notes: 2, slots: [a, a, None], ends: 8, budget: Budget { drops: 1, ..NO_BUDGET }, ..b }),
        ("c3", Bounds { quick_sockets: true,notes: 2, slots: [a, None, None], ends: 8, budget: Budget { crashes: 1, late_writes: 1, drops: 1, ..NO_BUDGET }, ..b }),
        ("c4", Bounds { quick_sockets: true,notes: 2, slots: [a, None, None], ends: 10, budget: Budget { crashes: 1, late_writes: 1, drops: 1,syncs:1, ..NO_BUDGET }, ..b }),
    ];
    let only = std::env::args().nth(1).unwrap_or_default();
    for (name, bounds) in worlds.into_iter().filter(|w| w.0.contains(&only)) {
        let f = search_all(Protocol { bounds, rules: Rules::ALL });
        println!("{name}: {} states {} steps depth {} in {:?}", f.states, f.steps, f.depth, f.took);
        for (p, t) in f.broken {
            println!("  BROKEN {p:?}");
            let bfs = search_for(Protocol { bounds, rules: Rules::ALL }, p);
            let t = bfs.broken.into_iter().find(|x| x.0 == p).map_or(t, |x| x.1);
            for (s, a) in t { println!("    {a:?}"); if a.is_none() { println!("{s:?}") } }
        }
    }
    println!("state size {} action {}", size_of::<State>(), size_of::<recado_model::action::Action>());
}
