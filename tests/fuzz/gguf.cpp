// SPDX-License-Identifier: Apache-2.0
// GGUF files, whole and damaged, in memory of their exact size: everything that reads them takes
// them or raises a clear error.
#include "engine/gguf.h"

#include <fmt/format.h>

#include <cstring>
#include <memory>

#include "engine/chat_template.h"
#include "engine/dequantize.h"
#include "engine/gguf_writer.h"
#include "engine/tiny_model.h"
#include "engine/tokenizer.h"
#include "fuzz/mutate.h"
#include "fuzz/targets.h"

namespace tilewright::fuzz {
namespace {

using engine::GgufFile;
using test::GgufWriter;

std::string every_type() {
  GgufWriter writer;
  writer.set("general.architecture", std::string("llama"))
      .set("a.u8", std::uint8_t{200})
      .set("a.i16", std::int16_t{-30000})
      .set("a.u64", std::uint64_t{1} << 40)
      .set("a.f32", 1.5F)
      .set("a.f64", 1e300)
      .set("a.bool", true)
      .set("a.strings", std::vector<std::string>{"x", "", "yz"})
      .set("a.integers", std::vector<std::int32_t>{3, -4})
      .set("a.nested", std::vector<std::vector<std::int32_t>>{{1}, {2, 3}})
      .set("general.alignment", std::uint32_t{64});
  std::string data(292, '\0');
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 37);
  for (const std::uint32_t type : {0, 1, 2, 3, 6, 7, 8, 12, 14, 30}) {
    const engine::GgmlTypeInfo& info = *engine::find_ggml_type(type);
    writer.add_tensor(std::string(info.name), {1, info.block_elements}, type,
                      data.substr(0, static_cast<std::size_t>(info.block_bytes)));
  }
  return writer.bytes(64);
}

std::string vocabulary() {
  GgufWriter writer;
  test::TinyVocabulary({{"h", "e"}, {"l", "l"}, {"he", "ll"}, {"hell", "o"}}).write(writer);
  writer.set("tokenizer.ggml.bos_token_id", std::uint32_t{1})
      .set("tokenizer.ggml.add_bos_token", true)
      .set("tokenizer.chat_template",
           std::string("{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}"));
  return writer.bytes();
}

std::string tiny_model() {
  test::TinyModel model;
  model.layers = 1;
  model.hidden = 8;
  model.ffn = 8;
  model.heads = 2;
  model.kv_heads = 1;
  model.head_dim = 8;
  return model.write().bytes();
}

const std::string& base_file(Draw& draw) {
  static const std::array<std::string, 3> kFiles = {every_type(), vocabulary(), tiny_model()};
  return kFiles[draw.below(kFiles.size())];
}

// What asks for values by key and type, and a tensor by shape.
void read_values(const GgufFile& file, Draw& draw) {
  static constexpr std::array kKeys = {
      "general.architecture", "a.u8", "a.f64", "a.bool", "a.strings", "a.integers", "a.nested",
      "tokenizer.ggml.tokens"};
  const char* key = kKeys[draw.below(kKeys.size())];
  taken([&] { check(!file.value(key).value.valueless_by_exception(), "no value"); });
  taken([&] { file.boolean(key); });
  taken([&] { check(file.integer(key, -5, 5000) <= 5000, "out of range"); });
  taken([&] { file.number(key); });
  taken([&] { file.string(key); });
  taken([&] { file.strings(key); });
  taken([&] { file.integers(key, -100, 100); });
  for (const engine::GgufTensor& tensor : file.tensors()) {
    check(file.find_tensor(tensor.name) == &tensor, "a tensor is not found by its name");
    taken([&] {
      const std::vector<float> values = engine::dequantize(tensor);
      check(std::ssize(values) == tensor.numel(), "another number of elements");
    });
    const std::int64_t columns = tensor.shape.back();
    if (tensor.shape.size() != 2 || columns > 4096) continue;
    std::vector<float> row(static_cast<std::size_t>(columns));
    taken([&] { engine::dequantize_row(tensor, tensor.shape[0] - 1, row); });
  }
}

void read_text(const GgufFile& file) {
  taken([&] {
    const engine::Tokenizer tokenizer(file);
    const std::string text = "<|im_start|>hello hello\n\xE2\x82\xAC 123<|im_end|>";
    for (const auto control : {engine::ControlTokens::parse, engine::ControlTokens::as_text}) {
      const auto ids = tokenizer.encode(text, control);
      engine::StreamDecoder stream(tokenizer);
      for (const std::int32_t id : ids) {
        check(id >= 0 && id < tokenizer.vocabulary_size(), "an id outside the vocabulary");
        stream.push(id);
      }
      stream.finish();
      tokenizer.decode(ids);
    }
    const std::vector<engine::ChatMessage> chat = {{"user", "hello"}};
    engine::ChatTemplate(file, tokenizer).encode(tokenizer, chat);
  });
}

}  // namespace

bool fuzz_gguf(Draw& draw) {
  std::string bytes = base_file(draw);
  const bool damaged = mutate(bytes, draw);
  draw.note([&] { return shown(bytes); });
  // A block of its own, so that a sanitizer sees a byte too many.
  const auto exact = std::make_unique<std::byte[]>(bytes.size());
  std::memcpy(exact.get(), bytes.data(), bytes.size());
  std::unique_ptr<GgufFile> file;
  const bool opened = taken(
      [&] { file = std::make_unique<GgufFile>("file", std::span(exact.get(), bytes.size())); });
  check(opened || damaged, "a whole file is refused");
  if (!opened) return false;
  read_values(*file, draw);
  read_text(*file);
  return true;
}

}  // namespace tilewright::fuzz
