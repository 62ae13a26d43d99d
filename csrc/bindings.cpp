// The only pybind11 file: names to functions, and the torch.library registrations. No logic.
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>
#include <torch/version.h>

#include <string>
#include <vector>

#include "kernels.h"
#include "ops/backends.h"
#include "ops/ops.h"
#include "ops/records.h"

namespace py = pybind11;

namespace fastinit {

// A sequence of numbers, quick for lists of exactly float or int: a call for thousands of tensors
// brings tens of thousands of them.
template <class T>
struct Numbers {
  std::vector<T> items;
};

}  // namespace fastinit

template <class T>
struct pybind11::detail::type_caster<fastinit::Numbers<T>> {
  PYBIND11_TYPE_CASTER(fastinit::Numbers<T>,
                       const_name("Sequence[") + make_caster<T>::name + const_name("]"));

  bool load(handle source, bool convert) {
    if (isinstance<list>(source)) {
      const auto count = static_cast<size_t>(PyList_GET_SIZE(source.ptr()));
      value.items.resize(count);
      size_t i = 0;
      while (i < count && take(PyList_GET_ITEM(source.ptr(), i), value.items[i])) ++i;
      if (i == count) return true;
    }
    make_caster<std::vector<T>> any;
    if (!any.load(source, convert)) return false;
    value.items = cast_op<std::vector<T>&&>(std::move(any));
    return true;
  }

 private:
  static bool take(PyObject* item, double& number) {
    if (!PyFloat_CheckExact(item)) return false;
    number = PyFloat_AS_DOUBLE(item);
    return true;
  }
  static bool take(PyObject* item, int64_t& number) {
    int overflow = 0;
    if (!PyLong_CheckExact(item)) return false;
    number = PyLong_AsLongLongAndOverflow(item, &overflow);
    return overflow == 0;
  }
};

namespace fastinit {
namespace {

#define FASTINIT_STREAM_SCHEMA                                            \
  "Generator? generator=None, int[]? key=None, Tensor? key_tensor=None, " \
  "int[]? global_shape=None, int[]? offsets=None) -> ()"

#define FASTINIT_FOR_EACH_OP(apply)                                                           \
  apply(uniform_) apply(normal_) apply(trunc_normal_) apply(variance_scaling_) apply(sparse_) \
      apply(orthogonal_) apply(multi_fill_)

// One kernel for all devices; see ops/ops.cpp.
#define FASTINIT_REGISTER(op) library.impl(#op, TORCH_FN(op));
// Autograd never sees an initialization.
#define FASTINIT_FALL_THROUGH(op) library.impl(#op, torch::CppFunction::makeFallthrough());

TORCH_LIBRARY(fastinit, library) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag, at::Tag::nondeterministic_seeded};
  library.def("uniform_(Tensor(a!) self, float low, float high, " FASTINIT_STREAM_SCHEMA, tags);
  library.def(
      "normal_(Tensor(a!) self, float mean, float std, Tensor? scale=None, " FASTINIT_STREAM_SCHEMA,
      tags);
  library.def(
      "trunc_normal_(Tensor(a!) self, float mean, float std, float low, float high, "
      "Tensor? scale=None, " FASTINIT_STREAM_SCHEMA,
      tags);
  library.def(
      "variance_scaling_(Tensor(a!) self, str distribution, float gain, Tensor? scale, str "
      "fan_mode, "
      "str nonlinearity, float parameter, int[]? in_axis, int[]? out_axis, int[]? batch_axis, "
      "int groups, " FASTINIT_STREAM_SCHEMA,
      tags);
  library.def(
      "sparse_(Tensor(a!) self, float sparsity, float std, Tensor? "
      "scale=None, " FASTINIT_STREAM_SCHEMA,
      tags);
  library.def(
      "orthogonal_(Tensor(a!) self, float gain, Tensor? scale, int[]? "
      "batch_axis, " FASTINIT_STREAM_SCHEMA,
      tags);
  library.def(
      "multi_fill_(Tensor(a!)[] self, int[] distribution, float[] mean, float[] std, float[] low, "
      "float[] high, int[] key, int[]? global_shape=None, int[]? offsets=None) -> ()",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "measure_(Tensor(a!) rows, Tensor(b!) peaks, Tensor values, int inner, float low, "
      "float high) -> ()",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(fastinit, CPU, library) {
  FASTINIT_FOR_EACH_OP(FASTINIT_REGISTER);
  FASTINIT_REGISTER(measure_);
}
TORCH_LIBRARY_IMPL(fastinit, CUDA, library) {
  FASTINIT_FOR_EACH_OP(FASTINIT_REGISTER);
  FASTINIT_REGISTER(measure_);
}
TORCH_LIBRARY_IMPL(fastinit, Meta, library) { FASTINIT_FOR_EACH_OP(FASTINIT_REGISTER); }
TORCH_LIBRARY_IMPL(fastinit, Autograd, library) {
  FASTINIT_FOR_EACH_OP(FASTINIT_FALL_THROUGH);
  FASTINIT_FALL_THROUGH(measure_);
}

// An empty list belongs to no device.
TORCH_LIBRARY_IMPL(fastinit, CompositeExplicitAutograd, library) {
  library.impl("multi_fill_", TORCH_FN(refuse_multi_fill_));
}

// pybind11 has no caster for optional lists of integers that are only referred to.
template <class T>
struct FromPython {
  using Type = T;
  static T& view(T& value) { return value; }
};
template <>
struct FromPython<at::OptionalIntArrayRef> {
  using Type = std::optional<std::vector<int64_t>>;
  static at::OptionalIntArrayRef view(const Type& value) {
    return value.has_value() ? at::OptionalIntArrayRef(*value) : std::nullopt;
  }
};

template <class T>
struct FromPython<at::ArrayRef<T>> {
  using Type = std::vector<T>;
  static at::ArrayRef<T> view(const Type& value) { return value; }
};
template <>
struct FromPython<at::ArrayRef<double>> {
  using Type = Numbers<double>;
  static at::ArrayRef<double> view(const Type& value) { return value.items; }
};
template <>
struct FromPython<at::IntArrayRef> {
  using Type = Numbers<int64_t>;
  static at::IntArrayRef view(const Type& value) { return value.items; }
};

template <class Result, class Call, class... Args>
auto from_python(const Call& call, Result (*)(Args...)) {
  return [call](typename FromPython<Args>::Type... args) -> Result {
    const py::gil_scoped_release release;
    return call(FromPython<Args>::view(args)...);
  };
}

// The quick way to an operator from Python: through the dispatcher, past torch.ops.
template <class... Args, class... Extra>
void bind_operator(py::module_& module, const char* name, void (*signature)(Args...),
                   const Extra&... extra) {
  const std::string full = std::string("fastinit::") + name;
  const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow(full.c_str(), "").typed<void(Args...)>();
  const auto call = [handle](Args... args) { handle.call(args...); };
  module.def(name, from_python(call, signature), extra...);
}

// ------------------------------------------------------------------------------ what waits

// As fastinit._fill.laws.Law holds it.
using LawOf = std::tuple<int64_t, double, double, double, double, decltype(Fill::region)>;

Fill fill_of(LawOf law, const std::array<int64_t, 2>& key) {
  auto& [distribution, mean, std, low, high, region] = law;
  return {distribution, mean, std, low, high, key, std::move(region)};
}

LawOf law_of(const Fill& fill) {
  return {fill.distribution, fill.mean, fill.std, fill.low, fill.high, fill.region};
}

std::optional<LawOf> law_of(const Fill* fill) {
  return fill == nullptr ? std::nullopt : std::optional(law_of(*fill));
}

Action action_of(py::object object) {
  return {new py::object(std::move(object)), [](void* held) {
            const py::gil_scoped_acquire acquire;
            delete static_cast<py::object*>(held);
          }};
}

py::object object_of(const Action& action) { return *static_cast<py::object*>(action.get()); }

py::object what_of(const What& what) {
  if (const auto* fill = std::get_if<Fill>(&what)) {
    return py::make_tuple(law_of(*fill), py::tuple(py::cast(fill->key)));
  }
  if (const auto* value = std::get_if<double>(&what)) return py::cast(*value);
  return object_of(std::get<Action>(what));
}

py::tuple tuple_of(const Record& record) {
  const Place& place = record.place;
  const auto numbers = [](at::IntArrayRef list) { return py::tuple(py::cast(list.vec())); };
  return py::make_tuple(place.dtype, numbers(place.sizes), numbers(place.strides), place.offset,
                        record.begin, record.end, record.solid, what_of(record.what));
}

py::list list_of(const std::vector<Record>& records) {
  py::list found;
  for (const Record& record : records) found.append(tuple_of(record));
  return found;
}

void bind_records(py::module_& module) {
  using py::arg;
  py::class_<Wave>(module, "Wave")
      .def_property_readonly("device", [](const Wave& wave) { return wave.device; })
      .def("run_fills", &Wave::run_fills, py::call_guard<py::gil_scoped_release>())
      .def("run_constants", &Wave::run_constants, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("actions", [](const Wave& wave) {
        py::list actions;
        for (const auto& [tensor, action] : wave.actions) {
          actions.append(py::make_tuple(tensor, object_of(action)));
        }
        return actions;
      });
  py::class_<Records>(module, "Records")
      .def(py::init<>())
      .def("__len__", &Records::size)
      .def_property_readonly("storages", &Records::storages)
      .def("admits", &Records::admits, arg("tensor"))
      .def(
          "add_fill",
          [](Records& records, const at::Tensor& tensor, LawOf law,
             const std::array<int64_t, 2>& key) {
            return records.add(tensor, fill_of(std::move(law), key), true);
          },
          arg("tensor"), arg("law"), arg("key"))
      .def(
          "add_constant",
          [](Records& records, const at::Tensor& tensor, double value, bool bump) {
            return records.add(tensor, value, bump);
          },
          arg("tensor"), arg("value"), arg("bump"))
      .def(
          "add_action",
          [](Records& records, const at::Tensor& tensor, py::object action) {
            return records.add(tensor, action_of(std::move(action)));
          },
          arg("tensor"), arg("action"))
      .def("full", &Records::full, arg("tensor"))
      .def("overwritten", &Records::overwritten, arg("tensor"))
      .def("survives_write", &Records::survives_write, arg("tensor"))
      .def("expose", &Records::expose, arg("tensor"))
      .def(
          "of",
          [](const Records& records, const at::Tensor& tensor) {
            return list_of(records.of(tensor));
          },
          arg("tensor"))
      .def(
          "left_by",
          [](const Records& records, const at::Tensor& tensor) {
            return list_of(records.left_by(tensor));
          },
          arg("tensor"))
      .def(
          "last",
          [](const Records& records, const at::Tensor& tensor) {
            return law_of(records.last(tensor));
          },
          arg("tensor"))
      .def("allow_edits", &Records::allow_edits, arg("tensor"))
      .def(
          "editable",
          [](const Records& records, const at::Tensor& tensor) {
            return law_of(records.editable(tensor));
          },
          arg("tensor"))
      .def("edit", &Records::edit, arg("tensor"), arg("mean"), arg("std"), arg("low"), arg("high"))
      .def(
          "take",
          [](Records& records, const std::vector<at::Tensor>& tensors) {
            return records.take(tensors);
          },
          arg("tensors"))
      .def("take_all", &Records::take_all);
}

py::dict build_info() {
  py::dict info;
  const char* names[cpu::kMaxInstructionSets];
  const int count = cpu::instruction_sets(names);
  info["stream_version"] = kStreamVersion;
  info["torch"] = TORCH_VERSION;
#if defined(FASTINIT_WITH_CUDA)
  info["cuda"] = FASTINIT_CUDA_TOOLKIT;
  info["cuda_architectures"] = py::str(FASTINIT_CUDA_ARCHITECTURES).attr("split")(";");
#else
  info["cuda"] = py::none();
  info["cuda_architectures"] = py::none();
#endif
  info["instruction_sets"] = std::vector<std::string>(names, names + count);
  info["instruction_set"] = cpu::instruction_set();
  info["threads"] = at::get_num_threads();
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
#define FASTINIT_STREAM_DEFAULTS                                            \
  py::arg("generator") = py::none(), py::arg("key") = py::none(),           \
  py::arg("key_tensor") = py::none(), py::arg("global_shape") = py::none(), \
  py::arg("offsets") = py::none()

  using py::arg;
  bind_operator(module, "uniform_", &uniform_, arg("self"), arg("low"), arg("high"),
                FASTINIT_STREAM_DEFAULTS);
  bind_operator(module, "normal_", &normal_, arg("self"), arg("mean"), arg("std"),
                arg("scale") = py::none(), FASTINIT_STREAM_DEFAULTS);
  bind_operator(module, "trunc_normal_", &trunc_normal_, arg("self"), arg("mean"), arg("std"),
                arg("low"), arg("high"), arg("scale") = py::none(), FASTINIT_STREAM_DEFAULTS);
  bind_operator(module, "variance_scaling_", &variance_scaling_, arg("self"), arg("distribution"),
                arg("gain"), arg("scale"), arg("fan_mode"), arg("nonlinearity"), arg("parameter"),
                arg("in_axis"), arg("out_axis"), arg("batch_axis"), arg("groups"),
                FASTINIT_STREAM_DEFAULTS);
  bind_operator(module, "sparse_", &sparse_, arg("self"), arg("sparsity"), arg("std"),
                arg("scale") = py::none(), FASTINIT_STREAM_DEFAULTS);
  bind_operator(module, "orthogonal_", &orthogonal_, arg("self"), arg("gain"), arg("scale"),
                arg("batch_axis"), FASTINIT_STREAM_DEFAULTS);
  bind_operator(module, "multi_fill_", &multi_fill_, arg("self"), arg("distribution"), arg("mean"),
                arg("std"), arg("low"), arg("high"), arg("key"), arg("global_shape") = py::none(),
                arg("offsets") = py::none());
  bind_operator(module, "measure_", &measure_, arg("rows"), arg("peaks"), arg("values"),
                arg("inner"), arg("low"), arg("high"));

  bind_records(module);
  module.def("memory_of", &memory_of, arg("tensor"));

  module.def("calculate_gain", &calculate_gain, arg("nonlinearity"), arg("parameter"));
  module.def("fans", from_python(&fans, &fans), arg("shape"), arg("in_axis"), arg("out_axis"),
             arg("batch_axis"), arg("groups"));
  module.def("std_and_bounds", from_python(&std_and_bounds, &std_and_bounds), arg("shape"),
             arg("distribution"), arg("complex"), arg("gain"), arg("fan_mode"), arg("nonlinearity"),
             arg("parameter"), arg("in_axis"), arg("out_axis"), arg("batch_axis"), arg("groups"));
  module.def("philox", &philox_block, arg("counter"), arg("key"));
  module.def(
      "child_key",
      static_cast<std::pair<uint64_t, uint64_t> (*)(uint64_t, uint64_t, uint64_t)>(&child_key),
      arg("seed"), arg("offset"), arg("index"));
  module.def("named_keys", &named_keys, arg("seed"), arg("offset"), arg("names"));
  module.def("addresses", &addresses, arg("tensors"));
  module.def("first_alike", &first_alike, arg("tensors"));
  module.def("versions", &versions, arg("tensors"));
  module.def("cpu_generator_key", &cpu_generator_key, arg("generator"));
  module.def("cuda_generator_key", &cuda_generator_key, arg("seed"), arg("offset"));
  module.def("emulate_cuda", &emulate_cuda, arg("blocks"), arg("threads") = 1, arg("bytes") = 0);
  module.def("stream_version", [] { return kStreamVersion; });
  module.def("build_info", &build_info);
  module.def("instruction_sets", [] {
    const char* names[cpu::kMaxInstructionSets];
    const int count = cpu::instruction_sets(names);
    return std::vector<std::string>(names, names + count);
  });
  module.def(
      "force_instruction_set",
      [](const std::optional<std::string>& name) {
        TORCH_CHECK_VALUE(cpu::force_instruction_set(name.value_or("").c_str()),
                          "this machine or build has no instruction set '", *name, "'");
      },
      arg("name"));
}

}  // namespace fastinit
