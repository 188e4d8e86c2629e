package rig

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// Field is the header field that begins what must arrive unchanged: trace fields stand above it.
const Field = "X-Rig-Message"

// Message is a message that a test hands over. Number tells it apart from every other one of the
// test; it is in the recipients' addresses and in the content.
type Message struct {
	Number     uint64
	Recipients []string
	Size       int // octets of the body, about
}

// Address returns the address of recipient k of a message.
func Address(number uint64, k int, domain string) string {
	return fmt.Sprintf("m%d-%d@%s", number, k, domain)
}

// ParseAddress returns message and recipient of what Address returned.
func ParseAddress(address string) (number uint64, k int, err error) {
	local, _, _ := strings.Cut(address, "@")
	first, second, ok := strings.Cut(strings.TrimPrefix(local, "m"), "-")
	if !ok {
		return 0, 0, fmt.Errorf("%q is no address of the rig", address)
	}
	if number, err = strconv.ParseUint(first, 10, 64); err != nil {
		return 0, 0, fmt.Errorf("%q is no address of the rig: %w", address, err)
	}
	if k, err = strconv.Atoi(second); err != nil {
		return 0, 0, fmt.Errorf("%q is no address of the rig: %w", address, err)
	}
	return number, k, nil
}

// Content returns the message. It depends on the number and the size alone; lines that begin with
// dots and empty lines are in it.
func (m Message) Content() []byte {
	random := rand.New(rand.NewPCG(m.Number, uint64(m.Size))) //nolint:gosec // repeatable, no secret
	var body bytes.Buffer
	for body.Len() < m.Size {
		switch n := random.IntN(70); n {
		case 0:
			body.WriteString(".\r\n")
		case 1:
			body.WriteString("..a line with dots.\r\n")
		case 2:
			body.WriteString("\r\n")
		default:
			line := make([]byte, n)
			for i := range line {
				line[i] = byte('!' + random.IntN(94))
			}
			body.Write(line)
			body.WriteString("\r\n")
		}
	}
	sum := sha256.Sum256(body.Bytes())
	return fmt.Appendf(nil, "%s: %d %s\r\nFrom: <from@rig.test>\r\nSubject: message %d\r\n\r\n%s",
		Field, m.Number, hex.EncodeToString(sum[:]), m.Number, body.Bytes())
}

// Check returns the number of the message that arrived as content, and an error if it is not
// what was handed over below the trace fields.
func Check(content []byte) (uint64, error) {
	start := bytes.Index(content, []byte(Field+": "))
	if start < 0 || start > 0 && content[start-1] != '\n' {
		return 0, fmt.Errorf("no field %s in a message of %d octets", Field, len(content))
	}
	head, body, ok := bytes.Cut(content[start:], []byte("\r\n\r\n"))
	var number uint64
	var sum string
	if _, err := fmt.Sscanf(string(head), Field+": %d %s", &number, &sum); err != nil || !ok {
		return 0, fmt.Errorf("field %s is damaged: %q", Field, head)
	}
	if want := fmt.Sprintf("%s: %d %s\r\nFrom: <from@rig.test>\r\nSubject: message %d", Field, number, sum, number); string(head) != want {
		return number, fmt.Errorf("message %d has another header: %q", number, head)
	}
	if got := sha256.Sum256(body); hex.EncodeToString(got[:]) != sum {
		return number, fmt.Errorf("message %d has another body, %d octets", number, len(body))
	}
	return number, nil
}
