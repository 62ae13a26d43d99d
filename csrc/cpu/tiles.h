// Tiles for layouts whose memory order is not stream order (transposed, channels_last, stepped
// views): the last dimension, which the stream runs along, crossed with the dimension that memory
// runs along, so that both the generation and the stores work on consecutive elements.
#pragma once

#include "../core/fill.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

constexpr int64_t kTileElements = 4096;
constexpr int64_t kTileRows = 64;

struct Tile {
  Position origin;
  int64_t rows, columns;              // columns run along the stream
  int64_t row_stride, column_stride;  // in memory
  uint64_t row_stream_step;           // from a row to the next in the stream
};

struct Tiling {
  const Layout& layout;
  int row_dim = -1;  // the dimension crossed with the last one; -1: none is nearer in memory
  int64_t tile_rows = 1, tile_columns = 1;
  int64_t row_tiles = 1, column_tiles = 1;

  static bool needed(const Layout& layout) { return layout.stride[layout.ndim - 1] != 1; }

  explicit Tiling(const Layout& all) : layout(all) {
    const int last = layout.ndim - 1;
    for (int k = 0; k < last; ++k) {
      if (layout.stride[k] < layout.stride[row_dim < 0 ? last : row_dim]) row_dim = k;
    }
    const int64_t rows = row_dim < 0 ? 1 : layout.size[row_dim];
    tile_rows = rows < kTileRows ? rows : kTileRows;
    const int64_t fitting = kTileElements / tile_rows;
    tile_columns = layout.size[last] < fitting ? layout.size[last] : fitting;
    // Short rows that follow one another in the stream: take as many as fit.
    if (tile_columns == layout.size[last] && row_dim >= 0 &&
        layout.global_stride[row_dim] == static_cast<uint64_t>(tile_columns)) {
      const int64_t more = kTileElements / tile_columns;
      tile_rows = rows < more ? rows : more;
    }
    row_tiles = (rows + tile_rows - 1) / tile_rows;
    column_tiles = (layout.size[last] + tile_columns - 1) / tile_columns;
  }

  int64_t count() const {
    int64_t outer = 1;
    for (int k = 0; k < layout.ndim - 1; ++k) outer *= k == row_dim ? 1 : layout.size[k];
    return outer * row_tiles * column_tiles;
  }

  // Neighbouring items are neighbours in memory.
  Tile tile(int64_t item) const {
    const int last = layout.ndim - 1;
    const int64_t row = item % row_tiles * tile_rows;
    item /= row_tiles;
    const int64_t column = item % column_tiles * tile_columns;
    item /= column_tiles;
    Tile tile{};
    tile.origin = {column * layout.stride[last], layout.start + static_cast<uint64_t>(column)};
    for (int k = last - 1; k >= 0; --k) {
      int64_t coordinate = row;
      if (k != row_dim) {
        coordinate = item % layout.size[k];
        item /= layout.size[k];
      }
      tile.origin.memory += coordinate * layout.stride[k];
      tile.origin.stream += static_cast<uint64_t>(coordinate) * layout.global_stride[k];
    }
    const int64_t rows_left = row_dim < 0 ? 1 : layout.size[row_dim] - row;
    const int64_t columns_left = layout.size[last] - column;
    tile.rows = rows_left < tile_rows ? rows_left : tile_rows;
    tile.columns = columns_left < tile_columns ? columns_left : tile_columns;
    tile.row_stride = row_dim < 0 ? 0 : layout.stride[row_dim];
    tile.column_stride = layout.stride[last];
    tile.row_stream_step = row_dim < 0 ? 0 : layout.global_stride[row_dim];
    return tile;
  }
};

}  // namespace FASTINIT_ISA
}  // namespace fastinit
