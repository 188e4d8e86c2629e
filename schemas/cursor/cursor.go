// Package cursor is how a node's agent tells the sender which records of the event log it has
// shipped, so that the sender may remove their segments. The agent writes one small file per
// stream beside the log, the sender reads it.
//
// The file is replaced as a whole and durably; a damaged one is an error, never a position. Save
// must not be called twice at once for one stream; the agent's lock sees to that.
package cursor

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"carom/schemas/atomicfile"
)

// ErrMalformed is wrapped by the error of Load for a file that is no cursor or is damaged.
var ErrMalformed = errors.New("malformed cursor")

// The file is one line: the word, the format's version, the incarnation, the number, and the
// CRC-32C of all that stands before the last blank in hexadecimal.
const magic = "carom-cursor 1"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Cursor says how far a stream is shipped.
type Cursor struct {
	// Incarnation is that of the log, as seglog writes it. A cursor of another incarnation says
	// nothing of the log that is there.
	Incarnation string
	// Seq is the last record that is stored for good; 0 for none.
	Seq uint64
}

// File returns the name of the file for a stream of the event log in dir.
func File(dir, stream string) string { return filepath.Join(dir, stream+".cursor") }

// Load reads the cursor of a stream of the event log in dir. errors.Is(err, fs.ErrNotExist) tells
// that nothing was shipped yet; a file that can't be understood is ErrMalformed.
func Load(dir, stream string) (Cursor, error) {
	name := File(dir, stream)
	data, err := os.ReadFile(name) //nolint:gosec // the caller names the folder
	if err != nil {
		return Cursor{}, fmt.Errorf("read cursor: %w", err)
	}
	c, ok := parse(string(data))
	if !ok {
		return Cursor{}, fmt.Errorf("%s: %w", name, ErrMalformed)
	}
	return c, nil
}

// Save replaces the cursor of a stream. After it returned nil the cursor is on disk.
func Save(dir, stream string, c Cursor) error {
	return atomicfile.Write(File(dir, stream), func(w io.Writer) error {
		_, err := io.WriteString(w, format(c))
		return err
	})
}

func format(c Cursor) string {
	text := fmt.Sprintf("%s %s %d", magic, c.Incarnation, c.Seq)
	return fmt.Sprintf("%s %08x\n", text, crc32.Checksum([]byte(text), castagnoli))
}

func parse(line string) (Cursor, bool) {
	rest, ok := strings.CutPrefix(line, magic+" ")
	if !ok {
		return Cursor{}, false
	}
	incarnation, rest, ok := strings.Cut(rest, " ")
	if !ok || incarnation == "" {
		return Cursor{}, false
	}
	number, _, _ := strings.Cut(rest, " ")
	seq, err := strconv.ParseUint(number, 10, 64)
	c := Cursor{Incarnation: incarnation, Seq: seq}
	return c, err == nil && format(c) == line
}
