// Package arch tests how the packages of carom may depend on each other: services meet only in
// schemas, the sender never links ClickHouse's client, the control loop's core does no I/O.
// It has no code of its own.
package arch
