//go:build unix

package chdb

import (
	"fmt"
	"strconv"
	"strings"
)

// codeLogicalError is ClickHouse's LOGICAL_ERROR, used for an error text without a code.
const codeLogicalError = 49

// Error is an exception of the engine.
type Error struct {
	Code    int    // ClickHouse's error code, 60 for UNKNOWN_TABLE
	Name    string // its name, "UNKNOWN_TABLE"
	Message string // the text between "DB::Exception: " and the name
}

// Error returns the text as a ClickHouse server writes it, without the version.
func (e *Error) Error() string {
	return fmt.Sprintf("Code: %d. DB::Exception: %s (%s)", e.Code, e.Message, e.Name)
}

// ParseError takes an exception's text apart: "Code: 60. DB::Exception: … (UNKNOWN_TABLE)".
// An exception that the engine wrapped into itself ("Code: 115. DB::Exception: Code: 115. …") is
// unwrapped. Text of another form becomes the message of a LOGICAL_ERROR.
func ParseError(text string) *Error {
	text = strings.TrimSpace(text)
	e := &Error{Code: codeLogicalError, Name: "LOGICAL_ERROR"}
	for {
		code, rest, ok := cutCode(text)
		if !ok {
			break
		}
		e.Code, text = code, rest
	}
	for {
		head, group, ok := cutGroup(text)
		switch {
		case ok && isErrorName(group):
			e.Name = group
		case ok && strings.HasPrefix(group, "version "):
		default:
			e.Message = text
			return e
		}
		// A wrapped exception ends "… (NAME) (version 26.5.1.1). (NAME)".
		text = strings.TrimRight(head, " ")
		if before, cut := strings.CutSuffix(text, ")."); cut {
			text = before + ")"
		}
	}
}

// cutCode removes a leading "Code: 60. DB::Exception: ".
func cutCode(text string) (code int, rest string, ok bool) {
	after, ok := strings.CutPrefix(text, "Code: ")
	if !ok {
		return 0, "", false
	}
	digits, rest, ok := strings.Cut(after, ". ")
	if !ok {
		return 0, "", false
	}
	code, err := strconv.Atoi(digits)
	if err != nil || code <= 0 {
		return 0, "", false
	}
	// The class is DB::Exception, or one derived from it such as DB::ParsingException.
	class, message, ok := strings.Cut(rest, ": ")
	if !ok || strings.ContainsAny(class, " \n") || !strings.HasSuffix(class, "Exception") {
		return 0, "", false
	}
	return code, message, true
}

// cutGroup removes a trailing "(…)" without inner parentheses, "(version 26.5.1.1)" included.
func cutGroup(text string) (head, group string, ok bool) {
	if !strings.HasSuffix(text, ")") {
		return "", "", false
	}
	open := strings.LastIndexByte(text, '(')
	if open < 0 {
		return "", "", false
	}
	return text[:open], text[open+1 : len(text)-1], true
}

func isErrorName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return len(s) >= 2
}
