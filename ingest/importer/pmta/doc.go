// Package pmta reads PowerMTA's accounting files: CSV by RFC 4180, the header line first, one record
// for each step of a recipient (User's Guide 5.0, chapter 11), and makes the events of carom of them.
//
// Cut finds the records in a text, a Layout says what the columns of a file are, a Converter makes an
// event of a record, and a Memory adds what only the records before it tell: the number of the attempt,
// and who the provider and the source of an attempt without a connection are. Cut is lenient: what is
// broken costs one line. Nothing here panics on any input (FuzzRecords), reads a file or asks the clock.
//
// A Layout does not change and is safe for concurrent use; a Converter and a Memory belong to one
// goroutine each.
package pmta
