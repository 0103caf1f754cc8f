package redaction

import (
	"fmt"
	"math/bits"
	"regexp"
	"regexp/syntax"
	"strings"
	"sync"
)

// expressions are run one after another, in their order, each only on a text that it can match.
type expressions struct {
	list []expression
	// Those of which no letters are known that each match has.
	always set
	finder *finder
}

// expression, and how many letters and digits a match has at least.
type expression struct {
	*regexp.Regexp
	letters, digits int
}

// set is a set of places in a list.
type set []uint64

func (s set) add(place int) { s[place/64] |= 1 << (place % 64) }

func (s set) remove(place int) { s[place/64] &^= 1 << (place % 64) }

// next is the first member from a place on, or -1.
func (s set) next(place int) int {
	for word := place / 64; word < len(s); word++ {
		left := s[word]
		if word == place/64 {
			left &= ^uint64(0) << (place % 64)
		}
		if left != 0 {
			return word*64 + bits.TrailingZeros64(left)
		}
	}
	return -1
}

// compiled are those of every list so far: the pipelines of a Collector have the same ones.
var compiled sync.Map

func compile(patterns []string) (*expressions, error) {
	list := strings.Join(patterns, "\x00")
	if found, is := compiled.Load(list); is {
		return found.(*expressions), nil
	}
	made, err := compileAll(patterns)
	if err == nil {
		compiled.Store(list, made)
	}
	return made, err
}

func compileAll(patterns []string) (*expressions, error) {
	words := (len(patterns) + 63) / 64
	made := &expressions{always: make(set, words)}
	var needed [][]string
	for _, pattern := range patterns {
		runs, err := regexp.Compile(pattern)
		if err != nil {
			return nil, fmt.Errorf("blocked or allowed expression: %w", err)
		}
		tree, err := syntax.Parse(pattern, syntax.Perl)
		if err != nil {
			return nil, fmt.Errorf("blocked or allowed expression: %w", err)
		}
		if never(tree) {
			continue
		}
		strings := literals(tree)
		if strings == nil {
			made.always.add(len(made.list))
		}
		letters, digits := least(tree)
		made.list = append(made.list, expression{runs, letters, digits})
		needed = append(needed, strings)
	}
	made.finder = newFinder(needed, words)
	return made, nil
}

func (e *expressions) none() bool { return len(e.list) == 0 }

// match says whether one of them matches.
func (e *expressions) match(text string) bool {
	if e.none() {
		return false
	}
	var room [8]uint64
	found := e.candidates(text, room[:0])
	for place := found.next(0); place >= 0; place = found.next(place + 1) {
		if e.list[place].MatchString(text) {
			return true
		}
	}
	return false
}

// mask returns the text with every match masked; as it is, where it is allowed as a whole.
func (e *expressions) mask(text string, allowed *expressions) string {
	if e.none() {
		return text
	}
	var room [8]uint64
	found := e.candidates(text, room[:0])
	place := found.next(0)
	if place < 0 || allowed.match(text) {
		return text
	}
	for ; place >= 0; place = found.next(place + 1) {
		if !e.list[place].MatchString(text) {
			continue
		}
		text = e.list[place].ReplaceAllLiteralString(text, mask)
		// The next ones see the text without what was masked.
		found = e.candidates(text, found[:0])
	}
	return text
}

// candidates are those that may match.
func (e *expressions) candidates(text string, room set) set {
	found := append(room, e.always...)
	digits, ascii := e.finder.find(text, found)
	// Two letters of other alphabets are small forms of k and s to an expression in any case.
	if !ascii && (strings.Contains(text, "\u212a") || strings.Contains(text, "\u017f")) {
		for place := range e.list {
			found.add(place)
		}
	}
	for place := found.next(0); place >= 0; place = found.next(place + 1) {
		if len(text) < e.list[place].letters || digits < e.list[place].digits {
			found.remove(place)
		}
	}
	return found
}
