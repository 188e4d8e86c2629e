// Package warehouse ties carom to ClickHouse: the schema as numbered migrations, connecting by
// URL, and inserting a batch exactly once.
//
// It knows what the tables look like and not what the jobs make of them. The columns of events,
// gauges and annotations come from schemas/event. Errors name the address and the way out.
// Connections are clickhouse-go's and safe for concurrent use; so is every function here.
package warehouse
