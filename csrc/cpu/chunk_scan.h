#pragma once

// Cuts documents into chunks by a ChunkRule (core/chunk_count.h).

#include <array>
#include <cstdint>

#include "core/chunk_count.h"

namespace outdim {

// U+2581 stands for the space in SentencePiece vocabularies. Blanks, invisible characters and
// controls are taken broadly: whatever some normalizer may turn into a space or into nothing.
inline bool wide_solid(uint32_t code) {
  return !(code < 0xA1 || code == 0xAD || code == 0x1680 || code == 0x180E ||
           (code >= 0x2000 && code <= 0x200F) || (code >= 0x2028 && code <= 0x202F) ||
           (code >= 0x205F && code <= 0x206F) || code == 0x2581 || code == 0x3000 ||
           code == 0xFEFF || code == 0xFFFD);
}

// Cuts documents into chunks. Where a cut is possible is found for 64 bytes at once, without
// branches, as a bit mask from a table over pairs of classes; only the set bits are looked at. (A
// loop that branches at every byte was 1.6 times slower: it mispredicts at each end of a word.)
class Scanner {
 public:
  explicit Scanner(const ChunkRule& rule) : rule_(rule) {
    for (size_t p = 0; p < 16; ++p) {
      const bool dropped = has(rule.drop, p);
      uint32_t events =
          dropped ? ~uint32_t{rule.drop} : uint32_t{rule.cut[p]} | rule.drop | rule.guard;
      if (rule.spaces) events |= 1u << rule.byte_class[' '];
      for (size_t c = 0; c < 16; ++c) event_[p << 4 | c] = (events >> c) & 1;
    }
  }

  // Calls sink(begin, end) for each chunk until it returns false; returns where it stopped.
  template <class Sink>
  int64_t scan(const uint8_t* data, int64_t begin, int64_t end, Sink&& sink) const {
    if (begin >= end) return end;
    int64_t chunk = begin;
    bool guarded = has(rule_.guard, rule_.byte_class[data[begin]]);
    for (int64_t block = begin + 1; block < end; block += 64) {
      uint64_t events = end - block >= 64 ? events_of(data + block, 64)
                                          : events_of(data + block, static_cast<int>(end - block));
      for (; events != 0; events &= events - 1) {
        const int64_t i = block + __builtin_ctzll(events);
        const size_t prev = rule_.byte_class[data[i - 1]];
        if (!ends_chunk(data, begin, i, end, prev, rule_.byte_class[data[i]], &guarded)) continue;
        if (!has(rule_.drop, prev) && !sink(chunk, i)) return i;
        chunk = i;
      }
    }
    if (!has(rule_.drop, rule_.byte_class[data[end - 1]])) sink(chunk, end);
    return end;
  }

  // Which separator may stand between this chunk and others in one text.
  Joint joint(const uint8_t* chunk, int64_t length, int joint_class) const {
    const int64_t space = rule_.spaces ? 1 : 0;
    if (length > space && (space == 0 || chunk[0] == ' ') &&
        all_of_word(chunk + space, length - space)) {
      return Joint::kWord;
    }
    if (!rule_.spaces) return Joint::kSpace;
    if (length > 1 && chunk[0] == ' ' && solid_after(chunk, 1, length) &&
        solid_before(chunk, 0, length)) {
      return Joint::kSpace;
    }
    const size_t first = rule_.byte_class[chunk[0]], last = rule_.byte_class[chunk[length - 1]];
    const auto joining = static_cast<size_t>(joint_class);
    const bool apart = has(rule_.cut[joining], first) && has(rule_.cut[last], joining);
    return apart ? Joint::kClass : Joint::kNone;
  }

 private:
  static bool has(uint16_t set, size_t cls) { return (set >> cls) & 1; }

  // Bit k: a chunk may end before bytes[k], as far as the classes of it and of the byte before it
  // tell.
  uint64_t events_of(const uint8_t* bytes, int n) const {
    uint64_t events = 0;
    size_t prev = rule_.byte_class[bytes[-1]];
    for (int k = 0; k < n; ++k) {
      const size_t cls = rule_.byte_class[bytes[k]];
      events |= uint64_t{event_[prev << 4 | cls]} << k;
      prev = cls;
    }
    return events;
  }

  bool ends_chunk(const uint8_t* data, int64_t begin, int64_t i, int64_t end, size_t prev,
                  size_t cls, bool* guarded) const {
    if (has(rule_.drop, prev) != has(rule_.drop, cls)) {
      *guarded = has(rule_.guard, cls);
      return true;
    }
    if (rule_.spaces && data[i] == ' ') {
      const bool cut = i + 1 < end && solid_before(data, begin, i) && solid_after(data, i + 1, end);
      if (cut) *guarded = false;
      return cut || (!*guarded && has(rule_.cut[prev], cls));
    }
    const bool cut = !*guarded && has(rule_.cut[prev], cls);
    *guarded = *guarded || has(rule_.guard, cls);
    return cut;
  }

  bool all_of_word(const uint8_t* bytes, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) {
      if (!has(rule_.word, rule_.byte_class[bytes[i]])) return false;
    }
    return true;
  }

  bool solid_before(const uint8_t* data, int64_t begin, int64_t i) const {
    if (data[i - 1] < 0x80) return has(rule_.solid, rule_.byte_class[data[i - 1]]);
    int64_t lead = i - 1;
    while (lead > begin && i - lead < 4 && (data[lead] & 0xC0) == 0x80) --lead;
    return rule_.wide && wide_solid(code_point(data + lead, i - lead));
  }

  bool solid_after(const uint8_t* data, int64_t i, int64_t end) const {
    if (data[i] < 0x80) return has(rule_.solid, rule_.byte_class[data[i]]);
    return rule_.wide && wide_solid(code_point(data + i, end - i));
  }

  // Of valid UTF-8; 0 (not solid) where the bytes at hand are no whole character.
  static uint32_t code_point(const uint8_t* bytes, int64_t size) {
    const uint8_t lead = bytes[0];
    const int length = lead < 0xC0 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (length == 0 || size < length) return 0;
    uint32_t code = lead & (0xFFu >> (length + 1));
    for (int i = 1; i < length; ++i) code = code << 6 | (bytes[i] & 0x3Fu);
    return code;
  }

  const ChunkRule& rule_;
  std::array<uint8_t, 256> event_{};
};

}  // namespace outdim
