// Package control decides what a sender may send to a receiving provider from a source, from what
// the receiver answered.
//
// While a receiver refuses, the rate that it accepts is its limit. Decide sets the rate just below
// that, remembers it, returns to it quickly and probes above it rarely (BACKOFF, RECOVER, PROBE).
// Refusals that go on although the limit is obeyed are a penalty, which is waited out far below
// (COOLDOWN). A block or an outage is answered with canaries (SUSPEND), never with a timer alone.
// Connections and messages per connection have their own actuators. design/control.md section 4
// gives the reasons and the measurements behind each number.
//
// Decide is a function of its arguments: no clock, no I/O, no state of its own. Time is a
// time.Duration since any fixed start. It decides from evidence of the limit in force only (the
// epoch), so it never acts twice on the same refusals. Everything is safe for concurrent use.
package control
