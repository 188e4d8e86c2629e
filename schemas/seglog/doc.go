// Package seglog is a segmented append-only log for one writing process and any number of
// reading ones.
//
// The writer numbers records from 1 without gaps and makes them durable by group commit: many
// callers, one fsync. A Reader tails the log from another process; it never sees a record that
// was not fsynced, because a number once seen must never come back on a different record.
// The package knows nothing of what the records mean.
//
// # Files
//
//	lock                      flock of the writer, and its process id
//	incarnation               32 hexadecimal digits, made once when the log is new
//	durable                   the watermark: how far the log is fsynced
//	00000000000000000001.log  a segment, named for its first sequence number
//
// All integers are little-endian, all checksums CRC-32C. Checksums of record headers and of
// the watermark are seeded with the checksum of the incarnation, so that bytes of another log
// (a stale disk block, a record inside a stored message) never pass for a record of this one.
//
//	segment  magic "caromlog", version u32 = 1, first seq u64, incarnation [16]byte, crc u32
//	         followed by records and, when the segment is full, a seal
//	record   header crc u32, mark "\xcar1", flags u8, length u32, payload crc u32, seq u64,
//	         followed by the payload
//	seal     a record with flag 2, no payload, and the number of the record that follows
//	durable  magic "caromwm1", segment u64, offset u64, seq u64, crc u32
//
// Flag 1 of a record says that everything before it in the segment was already fsynced when it
// was written. Each segment is fsynced and sealed before the next one is made.
//
// # Durability
//
// Append and Commit.Wait return after the fsync: what they acknowledge survives power loss.
// Write returns after write(2): it survives the death of the process, and power loss only after
// the next fsync. The watermark is written after each fsync and is itself not synced; after
// power loss it may be old or unreadable, never ahead of the disk, and readers then wait until
// the writer has been started once.
//
// # Failures
//
// A batch that can't be written (ENOSPC) is refused as a whole: the segment is cut back to the
// last good record, its numbers are given to the next batch, and the log stays usable. If
// cutting back fails, or any fsync fails, the log is poisoned: every call returns ErrPoisoned
// until the process opens the log again, because after a failed fsync nobody can say what is on
// the disk. Open then writes the doubtful bytes once more before it trusts them.
//
// At Open, bytes after the last good record of the last segment are a torn tail and are cut
// off, unless they are known to have been durable (by the watermark, or by a later record with
// flag 1). Those, like any bad byte elsewhere, are damage: never cut, never skipped in silence,
// never a reason not to start. Log.Damage, Log.Scan and Reader.Next report it as CorruptError
// and go on behind it.
//
// # Concurrency
//
// All methods of Log are safe for concurrent use. A Reader belongs to one goroutine.
package seglog
