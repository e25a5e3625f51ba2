// Package rehearse lets a class happen before it happens: people who press Run, a fleet of GPUs, and between them the
// studio's own queue (internal/queue), estimates (internal/usage) and schedule (internal/sched), on a clock that is only a number. Hours pass in
// a moment, and the same input gives the same output.
//
// What is simulated is the world: people think, repeat graphs, come and go; GPUs load models, keep a cache of nodes,
// differ in speed and memory. What decides is the product, in the order of internal/dispatch: what happened at one
// instant is taken in, a staged job is recalled if one is to be, decisions are made until there are none.
//
// People draw from streams of their own. So each of them presses Run with the same graphs and thinks as long in
// every mode, and modes differ by what the schedule makes of it.
package rehearse
